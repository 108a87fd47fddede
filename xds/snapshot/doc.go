// Package snapshot turns the store's records into the typed resources that
// bridges see (xds/config/v1), and keeps them so.
//
// Bridges with the same set of workspaces share one group of resources, made
// when the first of them connects; a bridge never sees a record of another
// workspace. A change costs the groups that see it, and in them only the
// resources that changed: nothing is rendered anew.
//
// Resources carry no secrets: credentials and keys go over xds/link, sealed.
// Soft-deleted records are not served (a workspace is deleted when it is empty).
package snapshot
