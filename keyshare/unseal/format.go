package unseal

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"errors"

	"keybridge/keyshare/seal"
)

const (
	magic     = "keybridge keyring"
	aadDomain = "keybridge keyring v1"
	format    = 1

	ivSize        = 12
	tagSize       = 16
	recordKeySize = 32
	maxWrapped    = 1 << 20
)

// keys is an unwrapped keyring.
type keys struct {
	sealing []sealingKey
	records []recordKey
}

type sealingKey struct {
	version uint32
	id      string // of the public half, as in seal.Wrap
	private *rsa.PrivateKey
}

type recordKey struct {
	version uint32
	value   []byte
}

// newestRecord is the record key that new wraps are made under.
func (k *keys) newestRecord() *recordKey { return &k.records[len(k.records)-1] }

// byID finds the key that a record was sealed to.
func (k *keys) byID(id string) *rsa.PrivateKey {
	for i := range k.sealing {
		if k.sealing[i].id == id {
			return k.sealing[i].private
		}
	}
	return nil
}

var errFormat = errors.New("malformed keyring")

// parse reads a keyring's plaintext, whose bytes it does not keep. It is called
// inside lockedmem.Do. It accepts only what encode writes.
func parse(plain []byte) (*keys, error) {
	r := reader{rest: plain}
	k := &keys{}
	for range r.uint16() {
		version, der := r.uint32(), r.take(int(r.uint16()))
		if r.failed {
			return nil, errFormat
		}
		private, err := parseRSA(der)
		if err != nil {
			return nil, err
		}
		public, err := seal.NewPublicKey(&private.PublicKey)
		if err != nil {
			return nil, errFormat
		}
		if n := len(k.sealing); version == 0 || n > 0 && version <= k.sealing[n-1].version {
			return nil, errFormat
		}
		if k.byID(public.ID()) != nil {
			return nil, errFormat
		}
		k.sealing = append(k.sealing, sealingKey{version, public.ID(), private})
	}
	for range r.uint16() {
		version, value := r.uint32(), r.take(recordKeySize)
		if n := len(k.records); r.failed || version == 0 || n > 0 && version <= k.records[n-1].version {
			return nil, errFormat
		}
		k.records = append(k.records, recordKey{version, bytes.Clone(value)})
	}
	if r.failed || len(r.rest) != 0 || len(k.sealing) == 0 || len(k.records) == 0 {
		return nil, errFormat
	}
	return k, nil
}

func parseRSA(der []byte) (*rsa.PrivateKey, error) {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errFormat // what x509 says might quote the input
	}
	private, ok := key.(*rsa.PrivateKey)
	if !ok {
		return nil, errFormat
	}
	if again, err := x509.MarshalPKCS8PrivateKey(private); err != nil || !bytes.Equal(again, der) {
		return nil, errFormat
	}
	return private, nil
}

func (k *keys) encode() ([]byte, error) {
	// Room for all, so that no append leaves a copy behind.
	b := make([]byte, 0, 4+len(k.sealing)*(6+2048)+len(k.records)*(4+recordKeySize))
	b = binary.BigEndian.AppendUint16(b, uint16(len(k.sealing)))
	for _, s := range k.sealing {
		der, err := x509.MarshalPKCS8PrivateKey(s.private)
		if err != nil {
			return nil, err
		}
		b = binary.BigEndian.AppendUint32(b, s.version)
		b = binary.BigEndian.AppendUint16(b, uint16(len(der)))
		b = append(b, der...)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(k.records)))
	for _, r := range k.records {
		b = binary.BigEndian.AppendUint32(b, r.version)
		b = append(b, r.value...)
	}
	return b, nil
}

// additionalData ties a wrapped keyring to its share set and epoch.
func additionalData(set string, epoch uint64) []byte {
	b := appendString(nil, aadDomain)
	b = appendString(b, set)
	return binary.BigEndian.AppendUint64(b, epoch)
}

// appendHeader writes what precedes the nonce of a wrapped keyring.
func appendHeader(b []byte) []byte {
	return binary.BigEndian.AppendUint16(appendString(b, magic), format)
}

func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// reader takes fields off a keyring. After the first that is not there all
// others are empty.
type reader struct {
	rest   []byte
	failed bool
}

func (r *reader) take(n int) []byte {
	if n > len(r.rest) {
		r.rest, r.failed = nil, true
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

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}
