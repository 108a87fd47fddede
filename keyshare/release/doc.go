// Package release is the wire between a bridge and a keeper: the gRPC service by
// which a share is released, and the Transcript that the bridge signs, the keeper
// logs and the share is sealed with. Package keeper serves it, package quorum calls it.
package release
