package grant

import "errors"

// Probed is what one cheap call at a connector's provider has shown.
type Probed struct {
	Region string  // storage: where the bucket is, if the provider says so, also when it refuses
	Models []Model // AI: those that the provider lists
	// Denied says that the provider refuses the credential, whatever it is used for.
	Denied bool
}

// NewConnector makes a connector that is in no index, checked as Build checks it:
// for a call at its provider that no repository key asked for.
func NewConnector(in ConnectorInput) (*Connector, error) {
	b := resources{connectors: map[string]*Connector{}}
	b.connector(&in)
	if c := b.connectors[in.ID]; c != nil {
		return c, nil
	}
	return nil, errors.New(b.problems[0].Reason)
}
