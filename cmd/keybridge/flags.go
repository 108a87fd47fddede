package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

func required(cmd *cobra.Command, names ...string) {
	for _, n := range names {
		if err := cmd.MarkFlagRequired(n); err != nil {
			panic(err) // a flag that this very command did not define
		}
	}
}

// pairs parses repeated name=value flags.
func pairs(flag string, values []string) (map[string]string, error) {
	out := make(map[string]string, len(values))
	for _, v := range values {
		name, value, ok := strings.Cut(v, "=")
		if !ok || name == "" || value == "" {
			return nil, fmt.Errorf("--%s wants name=value, not %q", flag, v)
		}
		if _, dup := out[name]; dup {
			return nil, fmt.Errorf("--%s names %q twice", flag, name)
		}
		out[name] = value
	}
	return out, nil
}

// readSecret reads a secret from a file, or from standard input for "-". Secrets
// are never taken from arguments or the environment: both are readable by others.
func readSecret(cmd *cobra.Command, file string) ([]byte, error) {
	var raw []byte
	var err error
	if file == "-" {
		raw, err = io.ReadAll(io.LimitReader(cmd.InOrStdin(), 64<<10))
	} else {
		raw, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the secret: %w", err)
	}
	n := len(raw)
	for n > 0 && (raw[n-1] == '\n' || raw[n-1] == '\r') {
		n--
	}
	if n == 0 {
		return nil, fmt.Errorf("the secret in %s is empty", file)
	}
	return raw[:n], nil
}
