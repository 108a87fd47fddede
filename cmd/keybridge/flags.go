package main

import (
	"errors"
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

// addTokenFlag adds the flag beside --secret-file that tokenOf reads.
func addTokenFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("session-token-file", "", "S3: file with the session token of a temporary secret, - for standard input")
}

// tokenOf reads the session token that goes with the secret in a file; nil if there is none.
func tokenOf(cmd *cobra.Command, file, secretFile string) ([]byte, error) {
	switch {
	case file == "":
		return nil, nil
	case secretFile == "":
		return nil, errors.New("--session-token-file goes with --secret-file: a session token belongs to one secret")
	case file == "-" && secretFile == "-":
		return nil, errors.New("--secret-file and --session-token-file: one of them can be standard input")
	}
	return readSecret(cmd, file)
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
