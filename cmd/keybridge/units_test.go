package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// hardening is what every unit in docs/systemd has, whatever else it needs.
var hardening = []string{
	"NoNewPrivileges=yes", "CapabilityBoundingSet=", "ProtectSystem=strict", "ProtectHome=yes", "PrivateTmp=yes",
	"ProtectProc=invisible", "RestrictSUIDSGID=yes", "LockPersonality=yes", "LimitCORE=0", "UMask=0077", "StateDirectoryMode=0700",
}

// TestSystemdUnits holds the units to the commands that there are: each starts one with
// flags that it has, and all that it requires.
func TestSystemdUnits(t *testing.T) {
	units, err := filepath.Glob("../../docs/systemd/*.service")
	if err != nil {
		t.Fatal(err)
	}
	if len(units) != 4 {
		t.Errorf("%d units, want one for each process", len(units))
	}
	for _, path := range units {
		t.Run(filepath.Base(path), func(t *testing.T) {
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(string(raw), "\n")
			has := map[string]bool{}
			var command string
			for _, line := range lines {
				has[line] = true
				if c, ok := strings.CutPrefix(line, "ExecStart=/usr/bin/keybridge "); ok {
					command = c
				}
			}
			for _, want := range hardening {
				if !has[want] {
					t.Errorf("no line %s", want)
				}
			}
			// Whatever dies comes back by itself, and takes nothing else down.
			if !has["Restart=on-failure"] {
				t.Error("it is not started again")
			}
			for _, dependency := range []string{"BindsTo=", "Requires=", "PartOf="} {
				if strings.Contains(string(raw), "\n"+dependency) {
					t.Errorf("it stops when something else does: %s", dependency)
				}
			}
			cmd, args, err := root().Find(strings.Fields(command))
			if err != nil || cmd.RunE == nil {
				t.Fatalf("%q: no such command: %v", command, err)
			}
			if err := cmd.ParseFlags(args); err != nil {
				t.Fatal(err)
			}
			if err := cmd.ValidateRequiredFlags(); err != nil {
				t.Error(err)
			}
		})
	}
}
