// Package link carries sealed records from the control plane to the bridges
// that are enrolled for their workspaces, and the signed manifest and wrapped
// keyring that a bridge needs before it asks keepers for shares.
//
// Both sides authenticate by enrolled identity (mTLS). The control plane can
// withhold or destroy what passes here; it can read none of it, and cannot make
// a record open for another workspace, record or binding than it was sealed for.
package link
