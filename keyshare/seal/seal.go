package seal

// Record types.
const (
	TypeCredential    = "credential"
	TypeRepositoryKey = "repository-key"
)

// Binding says where a secret may be used. The bridge obeys it, not the
// connector or key record beside it. Unused fields are empty.
type Binding struct {
	// Use is what the secret is for. Credentials: "s3", "openai", "anthropic". Repository keys: "s3-key", "ai-key".
	Use string `json:"use"`
	// Key is the public half: the provider's access key id, or the repository key's id.
	Key string `json:"key,omitempty"`

	// Credentials only.
	Scheme string `json:"scheme,omitempty"` // "https" or "http"
	Host   string `json:"host,omitempty"`   // lower-case DNS name or IP address, no brackets
	Port   uint16 `json:"port,omitempty"`   // always explicit
	CA     string `json:"ca,omitempty"`     // hex SHA-256 of the PEM bundle; empty: system roots
	// Scope limits the credential on its host: the bucket, or the path prefix of an AI API ("/v1").
	Scope string `json:"scope,omitempty"`

	// Repository keys only: the repository's record id.
	Repository string `json:"repository,omitempty"`
}

// Header identifies one version of one secret.
type Header struct {
	Format    uint16  `json:"format"`    // 1
	Workspace string  `json:"workspace"` // UUID
	Type      string  `json:"type"`      // TypeCredential or TypeRepositoryKey
	Record    string  `json:"record"`    // UUID
	Version   uint64  `json:"version"`   // of the secret, from 1
	Binding   Binding `json:"binding"`
}

// Wrap is the DEK of a record, encrypted.
type Wrap struct {
	Suite uint16 `json:"suite"`
	KeyID string `json:"keyId"` // hex SHA-256 of the sealing key's SPKI (DER), or [RecordKeyID]
	Value []byte `json:"value"`
}

// Sealed is one sealed record: JSON as in the admin API (byte fields base64).
type Sealed struct {
	Header  Header `json:"header"`
	Key     Wrap   `json:"key"`
	IV      []byte `json:"iv"`      // 12 bytes
	AuthTag []byte `json:"authTag"` // 16 bytes
	Message []byte `json:"message"` // ciphertext, as long as the plaintext
}
