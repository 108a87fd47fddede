package s3

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"keybridge/extproc"
)

// maxDelete bounds the body of DeleteObjects where it is read: a thousand keys of
// 1,024 bytes, and as much again for elements, versions and escapes.
const maxDelete = 2 << 20

// DecideBody implements extproc.BodyDecider. All of the body is there before the provider
// is asked, and the headers are decided on anew: meanwhile the key may have been revoked,
// or the folder changed. A form is looked at before, as its signature is in it.
func (p *Protocol) DecideBody(now time.Time, r *extproc.Request, body []byte, complete bool) (*extproc.Decision, *extproc.Error) {
	seen, _ := r.State.(enough)
	switch {
	case isForm(r) && seen.reached(body, complete):
	case isForm(r):
		return nil, extproc.NeedBody
	case len(body) > maxDelete:
		return nil, failTooLarge.answer(r)
	case !complete:
		return nil, extproc.NeedBody
	}
	return p.decide(now, r, body, complete)
}

// TooLarge implements extproc.BodyDecider.
func (*Protocol) TooLarge() *extproc.Error { return failTooLarge.answer(nil) }

// TooSlow implements extproc.BodyDecider.
func (*Protocol) TooSlow() *extproc.Error { return failTooSlow.answer(nil) }

// confineDelete reads the body of DeleteObjects and holds its keys to the folder. One
// that is outside refuses them all.
func (s *scratch) confineDelete(r *extproc.Request, body []byte, complete bool) *extproc.Error {
	if f := s.plainBody(r); f != nil {
		return f.answer(r)
	}
	if !complete {
		return extproc.NeedBody
	}
	if stated := s.found.payload.value; stated != unsignedPayload {
		sum := sha256.Sum256(body)
		if hex.EncodeToString(sum[:]) != stated { // the signer's own word, not every provider checks it
			return failMismatch.answer(r)
		}
	}
	keys, ok := parseDelete(view(body))
	if !ok {
		return failXML.answer(r)
	}
	for _, key := range keys {
		if !inFolder(s.folder, key) {
			return failFolder.answer(r)
		}
	}
	return nil
}

// plainBody refuses a body that the provider may not take for the bytes that are read
// here: in chunks, compressed, or in an encoding of characters that goes before that
// of the document (RFC 7303 §3).
func (s *scratch) plainBody(r *extproc.Request) *failure {
	if v := s.found.payload.value; v != unsignedPayload && !hexDigits(v, 64) {
		return &failDelete
	}
	for _, lines := range [][]extproc.Header{r.Headers(), s.hoisted} {
		for _, h := range lines {
			switch h.Name {
			case "content-encoding", "x-amz-trailer", "x-amz-decoded-content-length":
				return &failDelete
			case "content-type":
				_, charset, named := strings.Cut(strings.ToLower(h.Value), "charset")
				if named && strings.Trim(charset, " \t=\"'") != "utf-8" {
					return &failDelete
				}
			case "content-length":
				if n, err := strconv.ParseInt(h.Value, 10, 64); err != nil || n > maxDelete {
					return &failTooLarge
				}
			}
		}
	}
	return nil
}
