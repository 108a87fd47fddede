package keyshare_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"flag"
	"math/big"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keybridge/keyshare"
)

// Documents of these formats must be read for as long as backups live: the vectors
// are frozen, and -update is for adding to them before a release.
var update = flag.Bool("update", false, "rewrite testdata with new keys and ciphertexts")

const vectorFile = "testdata/custody-v1.json"

// vectors is one share set with all its documents. Whatever is not random is
// compared byte for byte; of what is sealed, that it opens.
type vectors struct {
	Comment string `json:"comment"`
	// Root is the seed of the operator root's Ed25519 key.
	Root     hexBytes `json:"root"`
	U        hexBytes `json:"u"`
	Set      string   `json:"set"`
	Epoch    uint64   `json:"epoch"`
	Check    hexBytes `json:"check"`
	Shares   []shareVector
	Manifest string // keyshare.Signed
	// Minimal is a manifest without any optional field.
	Minimal    string
	Deliveries []deliveryVector
	// Transcript is of domain "d" and the fields "", "a" and three zero bytes.
	Transcript hexBytes
}

type shareVector struct {
	Share     hexBytes `json:"share"`
	ShareKey  hexBytes `json:"shareKey"`  // public half
	Recipient hexBytes `json:"recipient"` // private half, X25519
}

type deliveryVector struct {
	Keeper   string
	Document string
}

type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }
func (h *hexBytes) UnmarshalText(b []byte) (err error) {
	*h, err = hex.DecodeString(string(b))
	return err
}

func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	raw, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	v := &vectors{}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		t.Fatal(err)
	}
	root := ed25519.NewKeyFromSeed(v.Root)

	var shares []keyshare.Share
	for i, s := range v.Shares {
		key, err := keyshare.ShareKey(keyshare.Share(s.Share), v.Set, v.Epoch)
		if err != nil || !bytes.Equal(key.Public().(ed25519.PublicKey), s.ShareKey) {
			t.Errorf("share key %d: %x, %v", i, key.Public(), err)
		}
		shares = append(shares, keyshare.Share(s.Share))
	}
	if u, err := keyshare.Combine(shares[:2]); err != nil || !bytes.Equal(u, v.U) {
		t.Errorf("shares 0 and 1: %v", err)
	}
	if u, err := keyshare.Combine(shares[1:]); err != nil || !bytes.Equal(u, v.U) {
		t.Errorf("shares 1 and 2: %v", err)
	}
	if check, err := keyshare.CheckValue(v.U, v.Set, v.Epoch); err != nil || !bytes.Equal(check, v.Check) {
		t.Errorf("check value %x, %v", check, err)
	}
	for name, document := range map[string]string{"manifest": v.Manifest, "minimal manifest": v.Minimal} {
		m, err := keyshare.Verify(root.Public().(ed25519.PublicKey), []byte(document))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		again, err := keyshare.Sign(root, m)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(document, string(marshal(t, again))); diff != "" {
			t.Errorf("%s: signing it again gives another document: %s", name, diff)
		}
	}
	m, err := keyshare.Verify(root.Public().(ed25519.PublicKey), []byte(v.Manifest))
	if err != nil {
		t.Fatal(err)
	}
	for i, delivery := range v.Deliveries {
		key, err := keyshare.ParseRecipient(v.Shares[i].Recipient)
		if err != nil {
			t.Fatal(err)
		}
		if share, err := keyshare.Receive(m, delivery.Keeper, key, []byte(delivery.Document)); err != nil || !bytes.Equal(share, v.Shares[i].Share) {
			t.Errorf("delivery to %s: %v", delivery.Keeper, err)
		}
		var members struct {
			Format int    `json:"format"`
			Set    string `json:"set"`
			Epoch  uint64 `json:"epoch"`
			Keeper string `json:"keeper"`
			Sealed []byte `json:"sealed"`
		}
		unmarshal(t, []byte(delivery.Document), &members)
		if again := string(marshal(t, members)); again != delivery.Document {
			t.Errorf("delivery to %s is written as %s", delivery.Keeper, again)
		}
	}
	fields := [][]byte{{}, []byte("a"), {0, 0, 0}}
	if got := keyshare.Transcript("d", fields...); !bytes.Equal(got, v.Transcript) {
		t.Errorf("transcript %x", got)
	}
	if got, err := keyshare.ParseTranscript(v.Transcript, "d", 3); err != nil || !cmp.Equal(got, fields) {
		t.Errorf("transcript parses as %x, %v", got, err)
	}
}

func writeVectors(t *testing.T) {
	t.Helper()
	c := newCustody(t, testSet, 3, 2)
	v := vectors{
		Comment: "Frozen vectors of manifest, delivery and transcript, format 1. All keys were made for this file and protect nothing.",
		Root:    c.root.Seed(), U: c.u, Set: testSet, Epoch: 1, Check: c.manifest.Check,
		Transcript: keyshare.Transcript("d", nil, []byte("a"), make([]byte, 3)),
	}
	minimal := *c.manifest
	minimal.SealingKeys = []keyshare.SealingKey{sealingKey(t, 1)}
	minimal.SealingKeys[0].Current = true
	v.Minimal = string(c.sign(t, &minimal))

	full := minimal
	at := func(day int) *time.Time {
		d := time.Date(2027, 3, day, 0, 0, 0, 0, time.UTC)
		return &d
	}
	full.Version = 7
	retired := sealingKey(t, 2)
	retired.RetireAfter = at(1)
	full.SealingKeys = append([]keyshare.SealingKey{retired}, minimal.SealingKeys...)
	full.Keepers = append([]keyshare.Keeper{}, minimal.Keepers...)
	full.Keepers[0].Next, full.Keepers[0].NotAfter = digest("keeper-1, next"), at(2)
	full.Bridges = []keyshare.Bridge{
		{Name: "bridge-1", SPKI: digest("bridge-1"), Next: digest("bridge-1, next"), NotAfter: at(3), Workspaces: []string{workspace, testSet}},
		{Name: "bridge-2", SPKI: digest("bridge-2"), Workspaces: []string{"*"}},
	}
	full.ControlPlanes = []keyshare.Peer{{Name: "control-1", SPKI: digest("control-1"), Next: digest("control-1, next"), NotAfter: at(4)}}
	v.Manifest = string(c.sign(t, &full))

	for i, k := range full.Keepers {
		private, err := c.recipients[i].Bytes()
		if err != nil {
			t.Fatal(err)
		}
		v.Shares = append(v.Shares, shareVector{hexBytes(c.shares[i]), hexBytes(k.ShareKey), private})
		delivery, err := keyshare.Deliver(&full, k.Name, k.Recipient, c.shares[i])
		if err != nil {
			t.Fatal(err)
		}
		v.Deliveries = append(v.Deliveries, deliveryVector{k.Name, string(delivery)})
	}
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vectorFile, append(raw, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// sealingKey is a public RSA key whose private half nobody has: an odd number of
// 3072 bits.
func sealingKey(t *testing.T, seed byte) keyshare.SealingKey {
	t.Helper()
	n := make([]byte, 0, 384)
	for block := sha256.Sum256([]byte{seed}); len(n) < 384; block = sha256.Sum256(block[:]) {
		n = append(n, block[:]...)
	}
	n[0] |= 0x80
	n[383] |= 1
	der, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: new(big.Int).SetBytes(n), E: 65537})
	if err != nil {
		t.Fatal(err)
	}
	return keyshare.SealingKey{
		ID: digest(string(der)), Suite: 1, PEM: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
	}
}
