// Package link carries sealed records from the control plane to the bridges
// that are enrolled for their workspaces, and the signed manifest and wrapped
// keyring that a bridge needs before it asks keepers for shares.
//
// Attach is the way back: each bridge reports how it is, and makes the cheap
// provider calls, probes, that the control plane asks for. [Hub] is the control
// plane's end of it, [Attachment] a bridge's. What a bridge reports is for people:
// nothing decides by it but which bridge is asked next.
//
// Both sides authenticate by enrolled identity (mTLS). The control plane can
// withhold or destroy what passes here; it can read none of it, and cannot make
// a record open for another workspace, record or binding than it was sealed for.
package link
