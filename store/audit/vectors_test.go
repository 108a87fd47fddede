package audit_test

import (
	"bytes"
	"os"
	"testing"

	"keybridge/store/audit"
)

// A log as version 1 of the format writes it: it must verify for as long as logs are
// kept, and each line be written again as it is.
func TestLogVector(t *testing.T) {
	log, err := os.ReadFile("testdata/audit-v1.log")
	if err != nil {
		t.Fatal(err)
	}
	head, err := audit.Verify(bytes.NewReader(log))
	const hash = "854b3cfbae15a3a092690ded9a0477742e98ed5719f3176f9bab7ffdc2c87e74"
	if err != nil || head.Lines != 3 || head.Hash != hash {
		t.Errorf("%+v, %v; want 3 lines with hash %s", head, err, hash)
	}
	for line := range bytes.Lines(log) {
		if again, err := audit.Parse(bytes.TrimSuffix(line, []byte("\n"))); err != nil || !bytes.Equal(again, line) {
			t.Errorf("%s is written as %s, %v", line, again, err)
		}
	}
}
