package api

import (
	"context"
	"errors"
	"time"

	"keybridge/keyshare/seal"
	"keybridge/store"
)

// Fleet is the bridges that are connected to this control plane. Only they can
// open a credential, so only they can try one.
type Fleet interface {
	// Probe has a bridge make one cheap provider call: HeadBucket (ListBuckets for
	// "*"), or the list of models. ErrNoBridge when none that serves the workspace is
	// connected; a provider that refuses is a result, not an error.
	Probe(ctx context.Context, p Probe) (ProbeResult, error)
	Nodes() []Node
	// ConnectorStatus is how each bridge that serves the connector last found it.
	ConnectorStatus(id string) []NodeStatus
	Sync() []SyncStatus
}

// ErrNoBridge says that no bridge is connected that could try a credential.
var ErrNoBridge = errors.New("no bridge is connected that serves the workspace")

// Probe names a connector, or else what a connector would be: a credential (the
// record's id, or Sealed as it would be stored) and what it is tried for. The
// bridge obeys the binding that is sealed in.
type Probe struct {
	Connector     string
	Sealed        *seal.Sealed
	Credential    string
	Workspace     string
	Type          store.ConnectorType
	Bucket        string
	Region        string
	CACertificate string
}

// ProbeResult is what the provider said; Message and all else is credential-free.
type ProbeResult struct {
	OK      bool
	Latency time.Duration
	Message string
	Region  string  // of the bucket, if the provider told
	Models  []Model // of an AI provider
}

// Model is one model of an AI provider. Created is in Unix seconds, 0 if unknown.
type Model struct {
	ID, Name string
	Created  int64
}

// The states of a bridge (OFFLINE: connected, not ready), and of a connector as a
// bridge found it.
const (
	StatusOnline       = "ONLINE"
	StatusOffline      = "OFFLINE"
	StatusDisconnected = "DISCONNECTED"
)

// Node is one bridge. Services is 1 for storage plus 2 for AI.
type Node struct {
	Name, IP, Region, Version, Status string
	Latency                           time.Duration
	LastUpdated                       time.Time
	URL                               string
	Services                          int
	// Reason is why it is not ready, Keepers what came of asking each for its share
	// when it last started, Problems what it leaves out of service.
	Reason   string
	Keepers  []KeeperStatus
	Problems []string
}

// KeeperStatus is a keeper as a bridge found it: State is "good" or what is wrong.
type KeeperStatus struct{ Name, State, Detail string }

// NodeStatus is one bridge with how it last found a connector: Status, Latency
// and LastUpdated are the connector's, Message is the provider's own error.
type NodeStatus struct {
	Node
	Message string
}

// SyncStatus is how far a bridge, or the Envoy of a bridge, has one xDS type.
type SyncStatus struct {
	Node      string // the bridge, or its Envoy
	Bridge    string
	Type      string
	Sent      uint64
	Acked     uint64
	Nack      string // text of the last rejection, if nothing was accepted since
	Connected bool
}

// Expiring is an enrolment that ends by itself soon, or has ended: of a keeper,
// bridge or control plane.
type Expiring struct {
	Role, Name string
	NotAfter   time.Time
}
