package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"keybridge/keyshare/ceremony"
)

func rotateKeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate-key",
		Short: "Make a new sealing key, and have bridges re-wrap what is sealed to the old one",
		Long: `Collects a threshold of shares, adds a sealing key to the keyring and publishes it,
waits until every enrolled bridge can open with it, and then makes it the one that new
secrets are sealed to. Bridges re-wrap the keys of records in the background; how far
they are is shown until they are done. The old key stays in the keyring for
--retire-after, so that backups open; then --prune drops it.

` + ceremonyHelp,
		Example: `  keybridge rotate-key --root root.key.age --key-file root.key --control control.internal:7443 \
    --keeper keeper-1=k1.internal:7001 --keeper keeper-2=k2.internal:7001 --keeper keeper-3=k3.internal:7001
  keybridge rotate-key --prune --root root.key.age --key-file root.key --control control.internal:7443 \
    --keeper keeper-1=k1.internal:7001 --keeper keeper-2=k2.internal:7001 --keeper keeper-3=k3.internal:7001`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	prune := f.Bool("prune", false, "drop old keys that are past their time and that no record needs, instead")
	retire := f.Duration("retire-after", 90*24*time.Hour, "how long backups that are sealed to the old key may be needed")
	force := f.Bool("force", false, "do not wait for bridges, nor for records of an earlier rotation; a bridge that lags cannot open what is new")
	noWait := f.Bool("no-wait", false, "do not wait until records are re-wrapped")
	return ceremonyCommand(cmd, "the sealing keys are as they should be", func(ctx context.Context, d *desk, _ []string) (*ceremony.Outcome, error) {
		if *prune {
			return d.Prune(ctx)
		}
		return d.RotateKey(ctx, ceremony.Rotation{RetireAfter: *retire, Force: *force, Wait: !*noWait})
	})
}
