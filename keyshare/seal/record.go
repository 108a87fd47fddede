package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
)

// Suites: how the body is encrypted and its key wrapped.
const (
	// SuiteRSA3072 is AES-256-GCM with a 32-byte key, wrapped by RSA-OAEP with
	// SHA-256, MGF1-SHA-256 and a 3072-bit key.
	SuiteRSA3072 = 1
	// SuiteReservedHPKE is reserved for HPKE with ML-KEM-768 and X25519. No
	// version reads or writes it yet.
	SuiteReservedHPKE = 2
	// SuiteRecordKey is a second wrap of the same key, made by a bridge that opened the
	// record: AES-256-GCM under a symmetric record key of the keyring, with a random
	// 12-byte nonce before the ciphertext and [Label] as additional data. The key id is
	// "record-key-" and the key's version in decimal.
	SuiteRecordKey = 3
)

// MaxPlaintext is the size of the largest secret, in bytes.
const MaxPlaintext = 64 << 10

// Sizes, in bytes.
const (
	dekSize = 32
	ivSize  = 12
	tagSize = 16
)

// wrapSize is the size of a wrap in bytes, 0 of an unknown suite.
func wrapSize(suite uint16) int {
	switch suite {
	case SuiteRSA3072:
		return rsaBits / 8
	case SuiteRecordKey:
		return ivSize + dekSize + tagSize
	}
	return 0
}

const recordKeyPrefix = "record-key-"

// RecordKeyID names a record key of the keyring in a wrap of [SuiteRecordKey].
func RecordKeyID(version uint32) string {
	return recordKeyPrefix + strconv.FormatUint(uint64(version), 10)
}

// isRecordKeyID admits the one spelling of each id.
func isRecordKeyID(s string) bool {
	digits, ok := strings.CutPrefix(s, recordKeyPrefix)
	n, err := strconv.ParseUint(digits, 10, 32)
	return ok && err == nil && n > 0 && s == RecordKeyID(uint32(n))
}

// ErrRecord is what [Sealed.Validate] and [Sealed.UnmarshalBinary] fail with,
// beside [ErrHeader].
var ErrRecord = errors.New("seal: invalid record")

// Seal encrypts plaintext, which may be 1 to [MaxPlaintext] bytes, for whoever
// holds the private half of pub. It neither keeps nor wipes plaintext.
func Seal(pub *PublicKey, h Header, plaintext []byte) (*Sealed, error) {
	if err := h.Validate(); err != nil {
		return nil, err
	}
	if len(plaintext) == 0 || len(plaintext) > MaxPlaintext {
		return nil, fmt.Errorf("seal: plaintext has %d bytes, allowed are 1 to %d", len(plaintext), MaxPlaintext)
	}
	dek := make([]byte, dekSize)
	defer wipe(dek)
	iv := make([]byte, ivSize)
	// crypto/rand.Read never fails (it ends the process instead).
	_, _ = rand.Read(dek)
	_, _ = rand.Read(iv)

	canonical := h.Canonical()
	block, err := aes.NewCipher(dek)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	// The key is used once, so any nonce is fresh.
	body := gcm.Seal(nil, iv, plaintext, canonical)
	wrap, err := pub.wrap(canonical, dek)
	if err != nil {
		return nil, err
	}
	return &Sealed{
		Header:  h,
		Key:     *wrap,
		IV:      iv,
		AuthTag: body[len(plaintext):],
		Message: body[:len(plaintext):len(plaintext)],
	}, nil
}

// Wrap encrypts the key of a record once more, for whoever holds the private half of p:
// for a bridge that has opened the record, after a rotation of the sealing key. It
// neither keeps nor wipes dek.
func (p *PublicKey) Wrap(h Header, dek []byte) (*Wrap, error) {
	if err := h.Validate(); err != nil {
		return nil, err
	}
	if len(dek) != dekSize {
		return nil, fmt.Errorf("seal: the key of a record has %d bytes, not %d", len(dek), dekSize)
	}
	return p.wrap(h.Canonical(), dek)
}

func (p *PublicKey) wrap(canonical, dek []byte) (*Wrap, error) {
	value, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, p.rsa, dek, Label(canonical, SuiteRSA3072, p.id))
	if err != nil {
		return nil, fmt.Errorf("seal: wrap: %w", err)
	}
	return &Wrap{Suite: SuiteRSA3072, KeyID: p.id, Value: value}, nil
}

// Label is the OAEP label of a wrap, and the additional data of one under a record key: the canonical header h, which ends where
// its own lengths say, the suite as uint16, and the key id as string, encoded as
// in [Header.Canonical].
func Label(h []byte, suite uint16, keyID string) []byte {
	b := make([]byte, 0, len(h)+4+len(keyID))
	b = append(b, h...)
	b = binary.BigEndian.AppendUint16(b, suite)
	return appendString(b, keyID)
}

// Validate reports whether s is well-formed, for records that came as JSON. A
// valid record may still be one that no key opens.
func (s *Sealed) Validate() error {
	if err := s.Header.Validate(); err != nil {
		return err
	}
	size := wrapSize(s.Key.Suite)
	switch {
	case size == 0:
		return fmt.Errorf("%w: suite %d, this version knows %d and %d", ErrRecord, s.Key.Suite, SuiteRSA3072, SuiteRecordKey)
	case s.Key.Suite == SuiteRSA3072 && !isDigest(s.Key.KeyID):
		return fmt.Errorf("%w: key.keyId is not a hex SHA-256", ErrRecord)
	case s.Key.Suite == SuiteRecordKey && !isRecordKeyID(s.Key.KeyID):
		return fmt.Errorf("%w: key.keyId is not that of a record key", ErrRecord)
	case len(s.Key.Value) != size:
		return fmt.Errorf("%w: key.value has %d bytes, not %d", ErrRecord, len(s.Key.Value), size)
	case len(s.IV) != ivSize:
		return fmt.Errorf("%w: iv has %d bytes, not %d", ErrRecord, len(s.IV), ivSize)
	case len(s.AuthTag) != tagSize:
		return fmt.Errorf("%w: authTag has %d bytes, not %d", ErrRecord, len(s.AuthTag), tagSize)
	case len(s.Message) == 0 || len(s.Message) > MaxPlaintext:
		return fmt.Errorf("%w: message has %d bytes, allowed are 1 to %d", ErrRecord, len(s.Message), MaxPlaintext)
	}
	return nil
}

// MarshalBinary encodes a valid record: the canonical header, then
//
//	uint16 suite
//	string key id
//	384 bytes wrap; of suite 3, 60 bytes
//	12 bytes iv
//	16 bytes authentication tag
//	uint32 length of the message, then the message
//
// with integers and strings as in [Header.Canonical].
func (s *Sealed) MarshalBinary() ([]byte, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	b := Label(s.Header.Canonical(), s.Key.Suite, s.Key.KeyID)
	b = append(b, s.Key.Value...)
	b = append(b, s.IV...)
	b = append(b, s.AuthTag...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(s.Message)))
	return append(b, s.Message...), nil
}

// UnmarshalBinary decodes what [Sealed.MarshalBinary] encoded and refuses
// everything else. s does not share memory with data. On failure s is unchanged.
func (s *Sealed) UnmarshalBinary(data []byte) error {
	r := reader{rest: data}
	n := Sealed{
		Header: r.header(),
		Key:    Wrap{Suite: r.uint16(), KeyID: r.string()},
	}
	n.Key.Value, n.IV, n.AuthTag = r.bytes(wrapSize(n.Key.Suite)), r.bytes(ivSize), r.bytes(tagSize)
	n.Message = r.bytes(r.length())
	if r.failed || len(r.rest) != 0 {
		return fmt.Errorf("%w: truncated, or bytes left over", ErrRecord)
	}
	if err := n.Validate(); err != nil {
		return err
	}
	*s = n
	return nil
}

func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// reader takes fields off a record. After the first field that is not there all
// others are empty; the caller looks at failed once, at the end.
type reader struct {
	rest   []byte
	failed bool
}

func (r *reader) fail() { r.rest, r.failed = nil, true }

func (r *reader) take(n int) []byte {
	if n > len(r.rest) {
		r.fail()
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) string() string { return string(r.take(int(r.uint16()))) }

func (r *reader) bytes(n int) []byte { return append([]byte(nil), r.take(n)...) }

// length reads the length of a message, at most MaxPlaintext.
func (r *reader) length() int {
	b := r.take(4)
	if b == nil {
		return 0
	}
	n := binary.BigEndian.Uint32(b)
	if n > MaxPlaintext {
		r.fail()
		return 0
	}
	return int(n)
}

//go:noinline
func wipe(b []byte) {
	clear(b)
	runtime.KeepAlive(b)
}
