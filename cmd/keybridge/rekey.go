package main

import (
	"context"

	"github.com/spf13/cobra"

	"keybridge/keyshare/ceremony"
)

func rekeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rekey",
		Short: "Make a new unseal key and new shares, and have the old shares erased",
		Long: `Collects a threshold of shares, opens the keyring, makes a new unseal key, wraps the
keyring under it and gives each keeper a share of it. Records are not touched, and
bridges that run go on without noticing. The old shares are never released again once
it is in force, and are erased as soon as enough keepers have the new manifest. Every
keeper must be running.

` + ceremonyHelp,
		Example: `  keybridge rekey --root root.key.age --key-file root.key --control control.internal:7443 \
    --keeper keeper-1=k1.internal:7001 --keeper keeper-2=k2.internal:7001 --keeper keeper-3=k3.internal:7001 --threshold 3`,
		Args: cobra.NoArgs,
	}
	threshold := thresholdFlag(cmd)
	return ceremonyCommand(cmd, "the old shares open nothing any more", func(ctx context.Context, d *desk, _ []string) (*ceremony.Outcome, error) {
		return d.Rekey(ctx, ceremony.Change{Verb: "rekey", Threshold: *threshold})
	})
}
