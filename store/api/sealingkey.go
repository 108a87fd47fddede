package api

import (
	_ "embed"
	"encoding/json"
	"net/http"

	"keybridge/keyshare/seal"
)

//go:embed openapi.yaml
var openAPI []byte

func serveOpenAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/yaml")
	w.Write(openAPI)
}

func (s *server) health(q *call) (any, error) {
	if _, err := s.Store.Revision(q.Context()); err != nil {
		return nil, err
	}
	return struct {
		Status string `json:"status"`
	}{"ok"}, nil
}

// currentKey is the key that secrets are sealed to.
func (s *server) currentKey() (*seal.PublicKey, error) {
	pub, err := s.Seal()
	if err != nil {
		s.Logger.Error("no sealing key", "error", err)
		return nil, &failure{http.StatusServiceUnavailable, "NO_SEALING_KEY", "there is no key to seal secrets to"}
	}
	return pub, nil
}

// sealingKey gives callers what they need to seal themselves. They trust it only
// after checking that the manifest is signed by the operator root that they pin
// and names this key; the default endpoints are for display, since a caller binds
// a secret to an endpoint of its own choice.
func (s *server) sealingKey(*call) (any, error) {
	pub, err := s.currentKey()
	if err != nil {
		return nil, err
	}
	var manifest json.RawMessage // null without one
	if s.Manifest != nil {
		manifest = s.Manifest()
	}
	return struct {
		Success          bool              `json:"success"`
		KeyID            string            `json:"keyId"`
		Algorithm        string            `json:"algorithm"`
		PublicKey        string            `json:"publicKey"`
		Manifest         json.RawMessage   `json:"manifest"`
		DefaultEndpoints map[string]string `json:"defaultEndpoints"`
	}{
		true, pub.ID(), "RSA-OAEP-3072-SHA256+A256GCM", string(pub.PEM()), manifest,
		map[string]string{"S3": defaultS3("{region}"), "OPENAI": defaultOpenAI, "ANTHROPIC": defaultAnthropic},
	}, nil
}
