package keyshare

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/hashicorp/vault/shamir"
)

const (
	// SecretSize is the length of U in bytes: an AES-256 key.
	SecretSize = 32
	// ShareSize is the length of a share of U: its values, then x.
	ShareSize = SecretSize + shamir.ShareOverhead
)

const redacted = "[redacted]"

// Share is one share of U. It prints as "[redacted]" whatever the verb; the
// caller owns the bytes and wipes them.
type Share []byte

// X is the share's coordinate, its last byte; 0 when the share is empty.
func (s Share) X() byte {
	if len(s) == 0 {
		return 0
	}
	return s[len(s)-1]
}

func (s Share) String() string               { return redacted }
func (s Share) GoString() string             { return redacted }
func (s Share) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (s Share) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Format answers every verb, also %x and %d, which would otherwise print the
// bytes of a slice type past its String method.
func (s Share) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, redacted) // fmt.State reports no write error to its caller either
}

// Split makes n shares of u, any t of which Combine to u. The shares' x are
// distinct, not zero and otherwise arbitrary; they are not 1..n.
func Split(u []byte, n, t int) ([]Share, error) {
	if len(u) != SecretSize {
		return nil, fmt.Errorf("split: the secret has %d bytes, want %d", len(u), SecretSize)
	}
	if err := checkQuorum(n, t); err != nil {
		return nil, fmt.Errorf("split: %w", err)
	}
	parts, err := shamir.Split(u, n, t)
	if err != nil {
		return nil, fmt.Errorf("split: %w", err)
	}
	shares := make([]Share, n)
	for i, p := range parts {
		shares[i] = p
	}
	return shares, nil
}

// Combine recovers U from exactly the threshold's number of shares. It refuses
// what the library underneath accepts (x = 0, any length), but it cannot tell a
// wrong share from a right one, nor too few from enough: run CheckShare on each
// before, and compare CheckValue after.
func Combine(shares []Share) ([]byte, error) {
	parts := make([][]byte, len(shares))
	for i, s := range shares {
		if len(s) != ShareSize {
			return nil, fmt.Errorf("combine: share %d has %d bytes, want %d", i, len(s), ShareSize)
		}
		if s.X() == 0 {
			// The polynomial at 0 is the secret: such a "share" would decide the result alone.
			return nil, fmt.Errorf("combine: share %d has x = 0", i)
		}
		parts[i] = s
	}
	u, err := shamir.Combine(parts)
	if err != nil {
		return nil, fmt.Errorf("combine: %w", err) // the library's errors carry no share content
	}
	return u, nil
}

// checkQuorum holds what GF(2^8) and the purpose allow: at most 255 distinct
// non-zero x, and a threshold of at least 2, because with 1 each keeper has U.
func checkQuorum(n, t int) error {
	if t < 2 || t > n || n > 255 {
		return fmt.Errorf("threshold %d of %d shares is not possible: want 2 ≤ threshold ≤ shares ≤ 255", t, n)
	}
	return nil
}

// Labels of everything derived or authenticated here. Each names its purpose and
// version, so that no value made for one use can be taken for another.
const (
	labelShareKey = "keybridge share key v1"
	labelCheck    = "keybridge unseal key check v1"
	labelDelivery = "keybridge share delivery v1"
)

// ShareKey derives the Ed25519 key whose public half the manifest publishes for
// a share: seed = HKDF-SHA256(share, info = label ‖ set ‖ epoch), RFC 5869. Set
// and epoch are bound in, so that the same bytes in another set have another key.
func ShareKey(share []byte, set string, epoch uint64) (ed25519.PrivateKey, error) {
	seed, err := hkdf.Key(sha256.New, share, nil, derivation(labelShareKey, set, epoch), ed25519.SeedSize)
	if err != nil {
		return nil, fmt.Errorf("derive share key: %w", err)
	}
	defer clear(seed)
	return ed25519.NewKeyFromSeed(seed), nil
}

// CheckValue derives 32 public bytes from U, by which a combined U is recognised
// before it is used. HKDF is one-way and U has 256 bits: nothing is given away.
func CheckValue(u []byte, set string, epoch uint64) ([]byte, error) {
	v, err := hkdf.Key(sha256.New, u, nil, derivation(labelCheck, set, epoch), sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("derive check value: %w", err)
	}
	return v, nil
}

func derivation(label, set string, epoch uint64) string {
	return string(Transcript(label, []byte(set), Uint64(epoch)))
}

// Transcript encodes what a signature, a derivation or an HPKE info string
// covers: the domain, then each field, every one prefixed by its length as a
// 32-bit big-endian number. The encoding is injective: different lists of fields
// never give the same bytes, which plain concatenation would not promise.
func Transcript(domain string, fields ...[]byte) []byte {
	size := 4 + len(domain)
	for _, f := range fields {
		size += 4 + len(f)
	}
	b := make([]byte, 0, size)
	b = appendField(b, []byte(domain))
	for _, f := range fields {
		b = appendField(b, f)
	}
	return b
}

// Uint64 is a number as a Transcript field: 8 bytes, big-endian.
func Uint64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func appendField(b, f []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(f)))
	return append(b, f...)
}

var errTranscript = errors.New("not a transcript of this domain and number of fields")

// ParseTranscript is the inverse of Transcript: the fields of b, which must be
// exactly n fields under domain and nothing more. The fields alias b.
func ParseTranscript(b []byte, domain string, n int) ([][]byte, error) {
	fields := make([][]byte, 0, n+1)
	for len(b) > 0 {
		if len(b) < 4 || len(fields) > n {
			return nil, errTranscript
		}
		size := uint64(binary.BigEndian.Uint32(b))
		b = b[4:]
		if size > uint64(len(b)) {
			return nil, errTranscript
		}
		fields = append(fields, b[:size:size])
		b = b[size:]
	}
	if len(fields) != n+1 || string(fields[0]) != domain {
		return nil, errTranscript
	}
	return fields[1:], nil
}
