package s3

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"hash"
	"strconv"
	"strings"

	"keybridge/extproc"
	"keybridge/extproc/credential"
	"keybridge/extproc/grant"
)

// The values of x-amz-content-sha256 for a body of signed chunks.
const (
	signedChunks        = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
	signedChunksTrailer = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
)

// Limits of a chunk. The lower one is Amazon S3's, for every chunk but the last of a
// body; the upper one is ours, because a chunk is held until its signature is known:
// SDKs send 64 KiB to 1 MiB.
const (
	minChunk = 8 << 10
	maxChunk = 8 << 20
)

// maxTrailer bounds the value of a trailer; the longest checksum, SHA-256, has 44 bytes.
const maxTrailer = 128

// signsChunks says whether the body consists of signed chunks.
func (f *found) signsChunks() bool {
	return f.payload.value == signedChunks || f.payload.value == signedChunksTrailer
}

// chunked is a body of signed chunks on its way ("Signature calculations for the
// authorization header: transferring payload in multiple chunks", and the same "… including
// trailing headers", Amazon S3 API Reference):
//
//	size in hex ";chunk-signature=" 64 hex digits CRLF  data CRLF   for each chunk, then
//	"0;chunk-signature=" 64 hex digits CRLF                         and
//	CRLF                                                            or, with a trailer,
//	name ":" value CRLF "x-amz-trailer-signature:" 64 hex digits CRLF CRLF
//
// A chunk's signature covers its data, and the signature before it, the first one the
// request's. So a chunk can go on as soon as all of it is there: with the provider's
// signature in the place of the client's. Data are hashed once for both.
type chunked struct {
	request          *extproc.Request // for errors: method and path, in memory of our own
	client, provider chain
	hash             hash.Hash
	trailer          string // name and colon; empty: there is none
	declared         int64  // bytes of data that the client announced
	data             int64  // bytes of the chunks so far, this one included
	small            bool   // the chunk is smaller than minChunk: no other may follow

	at    int64 // bytes of the body that were read
	ready int64 // bytes of the body that may go
	step  step
	n     int   // bytes of the step's text so far
	size  int64 // of the chunk
	left  int64 // bytes of its data to come
	count int   // chunks, this one included

	sum       [sha256.Size]byte
	signature [2 * sha256.Size]byte // the client's
	place     [][]byte              // where that stands, in as many pieces as it came
	value     [maxTrailer]byte
}

// step is what the next byte of the body belongs to.
type step uint8

const (
	stepSize step = iota // up to ';'
	stepSignatureName
	stepSignature
	stepDataStart
	stepData
	stepDataEnd
	stepTrailerName
	stepTrailerValue // up to CR
	stepTrailerSignatureName
	stepTrailerSignature
	stepTrailerEnd
	stepEnd
	stepDone
)

// chain is the signatures of one side.
type chain struct {
	key      *credential.SigningKey
	scope    []byte // date LF scope LF
	previous [2 * sha256.Size]byte
	text     []byte // to sign
	mac      [sha256.Size]byte
}

// newChain begins with the signature of the request itself.
func newChain(c *credential.Credential, s credential.Scope, date, scope string, seed []byte) (chain, error) {
	key, err := c.SigningKey(s)
	if err != nil {
		return chain{}, err
	}
	n := chain{key: key, scope: make([]byte, 0, len(date)+len(scope)+2)}
	n.scope = append(append(append(append(n.scope, date...), '\n'), scope...), '\n')
	copy(n.previous[:], seed)
	return n, nil
}

// kinds of strings to sign
const (
	kindChunk   = "AWS4-HMAC-SHA256-PAYLOAD\n"
	kindTrailer = "AWS4-HMAC-SHA256-TRAILER\n"
	emptyHash   = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n"
)

// next makes the signature that follows, of data with this hash, the previous one.
func (n *chain) next(kind string, sum *[sha256.Size]byte) error {
	b := append(append(n.text[:0], kind...), n.scope...)
	b = append(append(b, n.previous[:]...), '\n')
	if kind == kindChunk {
		b = append(b, emptyHash...) // that of further headers, which no chunk has
	}
	n.text = hex.AppendEncode(b, sum[:])
	if err := n.key.Sign(&n.mac, n.text); err != nil {
		return err
	}
	hex.Encode(n.previous[:], n.mac[:])
	return nil
}

// chunks prepares the rewriting of a body whose request was verified and signed: s.hex
// is the provider's signature.
func (s *scratch) chunks(r *extproc.Request, a *authorization, key *grant.Key, c *grant.Connector, scope credential.Scope, date, scopeText string) (*chunked, *failure) {
	w := &chunked{hash: sha256.New()}
	var f *failure
	if w.declared, w.trailer, f = announced(r, s.found.payload.value == signedChunksTrailer); f != nil {
		return nil, f
	}
	client := credential.Scope{Day: a.day, Region: a.region, Service: "s3"}
	var err error
	if w.client, err = newChain(key.Secret, client, a.date, a.scope, bytesOf(a.signature)); err != nil {
		return nil, &failSealed
	}
	if w.provider, err = newChain(c.Credential, scope, date, scopeText, s.hex[:]); err != nil {
		w.client.key.Free()
		return nil, &failSealed
	}
	path, _, _ := cut(r.Path)
	w.request = &extproc.Request{Method: strings.Clone(r.Method), Path: strings.Clone(path[:min(len(path), maxResource)])}
	return w, nil
}

// announced reads what the headers say of the chunks to come. They are x-amz-*, so
// that the client signed them.
func announced(r *extproc.Request, trails bool) (length int64, trailer string, f *failure) {
	const decodedLength, trailerNames = "x-amz-decoded-content-length", "x-amz-trailer"
	switch {
	case r.EndOfStream:
		return 0, "", &failIncomplete
	case r.Values(decodedLength) == 0:
		return 0, "", &failNoLength
	case r.Values(decodedLength) > 1 || r.Values(trailerNames) > 1:
		return 0, "", &failRepeated
	}
	value := r.Header(decodedLength)
	if value == "" || len(value) > 15 || !digits(value, len(value)) {
		return 0, "", &failLength
	}
	length = int64(number(value))
	if !trails {
		return length, "", nil
	}
	if r.Values(trailerNames) == 0 {
		return 0, "", &failTrailer
	}
	// One checksum, as for every upload; its name as it must come again.
	name, ok := strings.CutPrefix(strings.ToLower(r.Header(trailerNames)), "x-amz-checksum-")
	if !ok || !validName(name) || len(name) > 32 {
		return 0, "", &failTrailerName
	}
	return length, "x-amz-checksum-" + name + ":", nil
}

// TooSlow is 400 RequestTimeout, which SDKs try again.
func (w *chunked) TooSlow() *extproc.Error { return failTooSlow.answer(w.request) }

// Close wipes the keys.
func (w *chunked) Close() {
	w.client.key.Free()
	w.provider.key.Free()
}

// Rewrite verifies what arrives, and puts the provider's signatures in the place of
// the client's.
func (w *chunked) Rewrite(piece []byte, complete bool) (ready int64, e *extproc.Error) {
	for len(piece) > 0 {
		n, f := w.read(piece)
		if f != nil {
			return 0, w.refuse(f)
		}
		w.at += int64(n)
		if piece = piece[n:]; w.step == stepDone || w.step == stepSize && w.n == 0 {
			w.ready = w.at
		}
	}
	if complete && w.step != stepDone {
		return 0, w.refuse(&failIncomplete)
	}
	return w.ready, nil
}

func (w *chunked) refuse(f *failure) *extproc.Error {
	if f == &failChunkSize {
		return f.answer(w.request, "Chunk", strconv.Itoa(w.count), "BadChunkSize", strconv.FormatInt(w.size, 10))
	}
	return f.answer(w.request)
}

// read takes what it can of p, which is not empty.
func (w *chunked) read(p []byte) (n int, f *failure) {
	switch w.step {
	case stepSize:
		return 1, w.readSize(p[0])
	case stepSignature, stepTrailerSignature:
		n = copy(w.signature[w.n:], p)
		w.place = append(w.place, p[:n])
		if w.n += n; w.n == len(w.signature) {
			w.advance()
		}
		return n, nil
	case stepData:
		n = int(min(w.left, int64(len(p))))
		w.hash.Write(p[:n])
		if w.left -= int64(n); w.left == 0 {
			w.advance()
		}
		return n, nil
	case stepTrailerValue:
		return 1, w.readTrailer(p[0])
	case stepDone:
		return 0, &failIncomplete
	default:
		return 1, w.readLiteral(p[0])
	}
}

// readSize reads hex digits and what follows them.
func (w *chunked) readSize(b byte) *failure {
	if digit, ok := unhex(b); ok && w.n < 8 {
		w.size = w.size<<4 | int64(digit)
		w.n++
		return nil
	}
	w.count++
	switch {
	case b != ';' || w.n == 0:
		return &failIncomplete
	case w.size > 0 && w.small:
		return &failChunkSize
	case w.size > maxChunk:
		return &failChunkTooLarge
	case w.size > w.declared-w.data, w.size == 0 && w.data != w.declared:
		return &failChunksLength
	}
	w.data += w.size
	w.small = w.size < minChunk
	w.advance()
	return nil
}

// literals are the steps whose bytes are known; that of stepTrailerName is w.trailer.
var literals = [...]string{
	stepSignatureName:        "chunk-signature=",
	stepDataStart:            "\r\n",
	stepDataEnd:              "\r\n",
	stepTrailerSignatureName: "\nx-amz-trailer-signature:",
	stepTrailerEnd:           "\r\n",
	stepEnd:                  "\r\n",
}

func (w *chunked) readLiteral(b byte) *failure {
	literal := w.trailer
	if w.step != stepTrailerName {
		literal = literals[w.step]
	}
	if b != literal[w.n] {
		if w.step == stepTrailerName {
			return &failTrailer
		}
		return &failIncomplete
	}
	if w.n++; w.n < len(literal) {
		return nil
	}
	switch w.step {
	case stepDataStart:
		if w.size > 0 {
			w.left = w.size
			break
		}
		if f := w.sign(kindChunk); f != nil {
			return f
		}
		if w.step, w.n = stepTrailerName, 0; w.trailer == "" {
			w.step = stepEnd
		}
		return nil
	case stepDataEnd:
		if f := w.sign(kindChunk); f != nil {
			return f
		}
		w.step, w.n, w.size = stepSize, 0, 0
		return nil
	case stepTrailerEnd:
		w.hash.Write(bytesOf(w.trailer))
		w.hash.Write(w.value[:w.left])
		w.hash.Write([]byte{'\n'})
		if f := w.sign(kindTrailer); f != nil {
			return f
		}
	}
	w.advance()
	return nil
}

// readTrailer reads the value of the trailer and its CR. AWS's own example has a LF
// before it, and so have some SDKs.
func (w *chunked) readTrailer(b byte) *failure {
	switch {
	case b == '\r' && w.n > 0:
		w.left = int64(w.n)
		if w.value[w.n-1] == '\n' {
			w.left--
		}
		w.advance()
	case w.n == len(w.value), w.n > 0 && w.value[w.n-1] == '\n', b != '\n' && (b <= ' ' || b >= 0x7f):
		return &failTrailer
	default:
		w.value[w.n] = b
		w.n++
	}
	return nil
}

func (w *chunked) advance() { w.step, w.n = w.step+1, 0 }

// sign holds the signature that was read against the one of what was hashed, and
// writes the provider's in its place.
func (w *chunked) sign(kind string) *failure {
	w.hash.Sum(w.sum[:0])
	w.hash.Reset()
	if w.client.next(kind, &w.sum) != nil {
		return &failSealed
	}
	if subtle.ConstantTimeCompare(w.client.previous[:], w.signature[:]) != 1 {
		return &failSignature
	}
	if w.provider.next(kind, &w.sum) != nil {
		return &failSealed
	}
	n := 0
	for _, p := range w.place {
		n += copy(p, w.provider.previous[n:])
	}
	clear(w.place)
	w.place = w.place[:0]
	return nil
}
