package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

func envCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "env",
		Short: "Print the environment in which commands and SDKs find a running `keybridge dev`",
		Long: `Prints, for the shell to take in, where the admin API of a running "keybridge dev" is,
the files of its admin token and operator root, and as KEYBRIDGE_S3 and KEYBRIDGE_AI where
applications reach it.`,
		Example: `  eval "$(keybridge env)"
  eval "$(keybridge env --state /tmp/try)"`,
		Args: cobra.NoArgs,
	}
	state := cmd.Flags().String("state", ".state", "state directory of \"keybridge dev\"")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		raw, err := os.ReadFile(filepath.Join(*state, "endpoints.json"))
		if errors.Is(err, fs.ErrNotExist) {
			return &hinted{fmt.Errorf("no `keybridge dev` is ready with its state in %s", *state), "start one: keybridge dev --state " + *state}
		} else if err != nil {
			return err
		}
		var e endpoints
		if err := json.Unmarshal(raw, &e); err != nil {
			return fmt.Errorf("endpoints.json: %w", err)
		}
		for _, v := range [][2]string{
			{envAdmin, e.Admin}, {envTokenFile, e.AdminTokenFile}, {envRoot, e.OperatorRoot}, {"KEYBRIDGE_S3", e.S3}, {"KEYBRIDGE_AI", e.AI},
		} {
			if _, err := fmt.Fprintf(cmd.OutOrStdout(), "export %s=%s\n", v[0], quote(v[1])); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}

// quote makes a word for a POSIX shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
