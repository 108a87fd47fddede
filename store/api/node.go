package api

import (
	"strconv"
	"time"

	"keybridge/store"
)

// nodeItem is a bridge as the API shows it.
type nodeItem struct {
	IP          string     `json:"ip"`
	Region      string     `json:"region"`
	Version     string     `json:"version"`
	Status      string     `json:"status"`
	LatencyMs   int64      `json:"latencyMs"`
	LastUpdated *time.Time `json:"lastUpdated"` // null before anything was heard
	Name        string     `json:"name"`
}

func showNode(n *Node) nodeItem {
	item := nodeItem{IP: n.IP, Region: n.Region, Version: n.Version, Status: n.Status, LatencyMs: n.Latency.Milliseconds(), Name: n.Name}
	if t := n.LastUpdated.UTC(); !t.IsZero() {
		item.LastUpdated = &t
	}
	return item
}

// keeperItem is a keeper as a bridge found it.
type keeperItem struct {
	Name   string `json:"name"`
	State  string `json:"state"`
	Detail string `json:"detail,omitempty"`
}

// listNodes answers any token: bridges belong to no workspace, and an application
// needs their addresses. What a bridge says of itself beyond that may name resources
// of any workspace, and takes a role in all.
func (s *server) listNodes(q *call) (any, error) {
	services := 0
	if v := q.query("nodeServices"); v != "" {
		var err error
		if services, err = strconv.Atoi(v); err != nil || services < 0 {
			return nil, badField("nodeServices", "must be 0 for all, or a sum of 1 for storage and 2 for AI")
		}
	}
	type item struct {
		nodeItem
		URL          string       `json:"url"`
		NodeServices int          `json:"nodeServices"`
		Reason       string       `json:"reason,omitempty"`
		Keepers      []keeperItem `json:"keepers,omitempty"`
		Problems     []string     `json:"problems,omitempty"`
	}
	data := []item{}
	if s.Fleet != nil {
		for _, n := range s.Fleet.Nodes() {
			if services != 0 && n.Services&services == 0 {
				continue
			}
			i := item{nodeItem: showNode(&n), URL: n.URL, NodeServices: n.Services}
			if q.everywhere() {
				i.Reason, i.Problems = n.Reason, n.Problems
				for _, k := range n.Keepers {
					i.Keepers = append(i.Keepers, keeperItem(k))
				}
			}
			data = append(data, i)
		}
	}
	return struct {
		Success bool   `json:"success"`
		Data    []item `json:"data"`
		Total   int    `json:"total"`
	}{true, data, len(data)}, nil
}

// connectorNode is a bridge with how it last found a connector.
type connectorNode struct {
	nodeItem
	Message string `json:"message,omitempty"`
}

func (s *server) connectorNodes(q *call, storage bool) (string, []connectorNode, error) {
	c, err := s.connectorInPath(q, storage, store.AccessRead)
	if err != nil {
		return "", nil, err
	}
	nodes := []connectorNode{}
	if s.Fleet != nil {
		for _, n := range s.Fleet.ConnectorStatus(c.M.ID) {
			nodes = append(nodes, connectorNode{showNode(&n.Node), providerText(n.Message, nil)})
		}
	}
	return c.M.ID, nodes, nil
}

func (s *server) bucketStatus(q *call) (any, error) {
	id, nodes, err := s.connectorNodes(q, true)
	return struct {
		Success    bool            `json:"success"`
		BucketID   string          `json:"bucketId"`
		NodeStatus []connectorNode `json:"nodeStatus"`
	}{true, id, nodes}, err
}

func (s *server) llmStatus(q *call) (any, error) {
	id, nodes, err := s.connectorNodes(q, false)
	return struct {
		Success    bool            `json:"success"`
		ID         string          `json:"aiLlmId"`
		NodeStatus []connectorNode `json:"nodeStatus"`
	}{true, id, nodes}, err
}

// syncItem is how far a bridge or its Envoy has one xDS type.
type syncItem struct {
	Node      string `json:"node"`
	Bridge    string `json:"bridge"`
	Type      string `json:"type"`
	Sent      uint64 `json:"versionSent"`
	Acked     uint64 `json:"versionAcked"`
	Nack      string `json:"lastNack"`
	Connected bool   `json:"connected"`
}

// syncKeeper is a keeper as one bridge found it.
type syncKeeper struct {
	Bridge string `json:"bridge"`
	keeperItem
}

// expiringItem is an enrolment that ends by itself soon.
type expiringItem struct {
	Role     string    `json:"role"`
	Name     string    `json:"name"`
	NotAfter time.Time `json:"notAfter"`
}

// listSync takes a role in all workspaces: a rejection's text names resources of any.
func (s *server) listSync(q *call) (any, error) {
	if err := q.require("*", store.AccessRead); err != nil {
		return nil, err
	}
	data, keepers, expiring := []syncItem{}, []syncKeeper{}, []expiringItem{}
	if s.Fleet != nil {
		for _, st := range s.Fleet.Sync() {
			data = append(data, syncItem(st))
		}
		for _, n := range s.Fleet.Nodes() {
			for _, k := range n.Keepers {
				keepers = append(keepers, syncKeeper{n.Name, keeperItem(k)})
			}
		}
	}
	if s.Expiring != nil {
		for _, e := range s.Expiring() {
			expiring = append(expiring, expiringItem(e))
		}
	}
	return struct {
		Success  bool           `json:"success"`
		Data     []syncItem     `json:"data"`
		Keepers  []syncKeeper   `json:"keepers"`
		Expiring []expiringItem `json:"expiring"`
		Total    int            `json:"total"`
	}{true, data, keepers, expiring, len(data)}, nil
}
