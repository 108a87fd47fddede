package protocoltest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Chunks signs bodies as a client does that streams them in signed chunks ("Signature
// calculations for the authorization header: transferring payload in multiple chunks",
// Amazon S3 API Reference).
type Chunks struct {
	Secret string
	Date   string // x-amz-date
	Region string
	Seed   string // the signature of the request
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func sum(text string) string {
	s := sha256.Sum256([]byte(text))
	return hex.EncodeToString(s[:])
}

// next is the signature after the one in c.Seed, and becomes that.
func (c *Chunks) next(kind, hashes string) string {
	day := c.Date[:8]
	key := []byte("AWS4" + c.Secret)
	for _, part := range []string{day, c.Region, "s3", "aws4_request"} {
		key = mac(key, part)
	}
	c.Seed = hex.EncodeToString(mac(key, strings.Join([]string{
		"AWS4-HMAC-SHA256-" + kind, c.Date, day + "/" + c.Region + "/s3/aws4_request", c.Seed, hashes,
	}, "\n")))
	return c.Seed
}

// Chunk is one chunk as it is sent; the last one, of no data, lacks the CRLF that ends
// the body.
func (c *Chunks) Chunk(data string) string {
	head := fmt.Sprintf("%x;chunk-signature=%s\r\n", len(data), c.next("PAYLOAD", sum("")+"\n"+sum(data)))
	if data == "" {
		return head
	}
	return head + data + "\r\n"
}

// Trailer is a trailer and its signature, without the CRLF that ends the body.
func (c *Chunks) Trailer(name, value string) string {
	return name + ":" + value + "\r\nx-amz-trailer-signature:" + c.next("TRAILER", sum(name+":"+value+"\n")) + "\r\n"
}

// Body is all of data in chunks of a size. With trailer, "name:value", that too.
func (c *Chunks) Body(data string, size int, trailer string) string {
	return strings.Join(c.Parts(data, size, trailer), "")
}

// Parts is Body in pieces: every chunk, the last one of them empty, the trailer if
// there is one, the CRLF that ends the body.
func (c *Chunks) Parts(data string, size int, trailer string) (parts []string) {
	for data != "" {
		n := min(size, len(data))
		parts = append(parts, c.Chunk(data[:n]))
		data = data[n:]
	}
	parts = append(parts, c.Chunk(""))
	if name, value, ok := strings.Cut(trailer, ":"); ok {
		parts = append(parts, c.Trailer(name, value))
	}
	return append(parts, "\r\n")
}
