package lockedmem

import (
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// Secret is a handle to bytes in an [Arena]. It is passed by value; copies name
// the same bytes. The zero Secret is no secret. It prints, logs and marshals as
// "[redacted]" and cannot be compared with ==.
type Secret struct {
	_          [0]func()
	slab       *slab
	slot       uint32
	generation uint32
	length     uint32
}

// Bytes is a view into locked memory: it must not be kept, written to, or used
// after the secret was freed. It is nil for the zero Secret and once the secret
// was freed or purged.
func (s Secret) Bytes() []byte {
	if s.slab == nil || s.slab.gone.Load() || s.slab.generations[s.slot].Load() != s.generation {
		return nil
	}
	from := int(s.slot) * int(s.slab.size)
	to := from + int(s.length)
	return s.slab.mem[from:to:to]
}

// Len is the length that the secret had when it was copied in; 0 for the zero Secret.
func (s Secret) Len() int { return int(s.length) }

func (Secret) String() string               { return redacted }
func (Secret) GoString() string             { return redacted }
func (Secret) Format(f fmt.State, _ rune)   { _, _ = io.WriteString(f, redacted) }
func (Secret) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
