package keyshare_test

import (
	"bytes"
	"fmt"
	"math/bits"
	"testing"

	"keybridge/keyshare"
)

// For every n ≤ 7 and every threshold: each t of the shares give U, and each t-1 do
// not. What fewer give is recognised by the check value, which Combine cannot do.
func TestEverySubset(t *testing.T) {
	for n := 2; n <= 7; n++ {
		for threshold := 2; threshold <= n; threshold++ {
			t.Run(fmt.Sprintf("%d of %d", threshold, n), func(t *testing.T) {
				c := newCustody(t, testSet, n, threshold)
				opened, refused := 0, 0
				for set := range uint(1) << n {
					var subset []keyshare.Share
					for i, s := range c.shares {
						if set>>i&1 == 1 {
							subset = append(subset, s)
						}
					}
					switch bits.OnesCount(set) {
					case threshold:
						opened++
						if u, err := keyshare.Combine(subset); err != nil || !bytes.Equal(u, c.u) {
							t.Errorf("shares %b do not open: %v", set, err)
						}
					case threshold - 1:
						refused++
						u, err := keyshare.Combine(subset)
						if err != nil {
							continue // one share is no polynomial
						}
						check, err := keyshare.CheckValue(u, testSet, 1)
						if err != nil {
							t.Fatal(err)
						}
						if bytes.Equal(u, c.u) || bytes.Equal(check, c.manifest.Check) {
							t.Errorf("shares %b, one too few, open", set)
						}
					}
				}
				if opened != binomial(n, threshold) || refused != binomial(n, threshold-1) {
					t.Errorf("%d and %d subsets tried", opened, refused)
				}
			})
		}
	}
}

func binomial(n, k int) int {
	if k == 0 || k == n {
		return 1
	}
	return binomial(n-1, k-1) + binomial(n-1, k)
}
