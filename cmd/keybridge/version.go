package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"keybridge/envoy"
	"keybridge/keyshare/lockedmem"
)

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print versions, and whether key material is erased by runtime/secret",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "keybridge %s\ngo %s\nenvoy %s\nsecret erasure: %s\n",
				version(), runtime.Version(), envoy.Version, lockedmem.SecretMode())
			return err
		},
	}
}

// version is the module's, as the build recorded it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return strings.Trim(info.Main.Version, "()") // "(devel)" for what was built from a working tree
	}
	return "devel"
}
