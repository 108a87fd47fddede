package seal

import "bytes"

// WithToken is the payload of an S3 credential whose secret comes with a session token.
// It wipes both.
func WithToken(secret, token []byte) []byte {
	defer clear(secret)
	defer clear(token)
	return bytes.Join([][]byte{secret, token}, []byte{0})
}
