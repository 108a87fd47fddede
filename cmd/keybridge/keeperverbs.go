package main

import (
	"context"

	"github.com/spf13/cobra"

	"keybridge/keyshare/ceremony"
	"keybridge/keyshare/identity"
)

const keeperVerbHelp = `This is a rekey with other keepers: there is a new unseal key and every share is new.
All keepers of the new set must be running; give the addresses of all of them. A keeper
that leaves is told if it can be reached, and its old share opens nothing in any case.

` + ceremonyHelp

func keeperAddCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "add",
		Short: "Give one more keeper a share",
		Long:  "The new keeper has enrolled and runs (`keybridge keeper run`), without a share so far.\n" + keeperVerbHelp,
		Example: `  keybridge keeper add --enrolment keeper-4/enrolment.json --root root.key.age --key-file root.key --control control.internal:7443 \
    --keeper keeper-1=k1.internal:7001 --keeper keeper-2=k2.internal:7001 --keeper keeper-3=k3.internal:7001 --keeper keeper-4=k4.internal:7001`,
		Args: cobra.NoArgs,
	}
	file := cmd.Flags().String("enrolment", "", "enrolment.json of the new keeper")
	threshold := thresholdFlag(cmd)
	required(cmd, "enrolment")
	return ceremonyCommand(cmd, "the keeper has its share", func(ctx context.Context, d *desk, _ []string) (*ceremony.Outcome, error) {
		e, err := readEnrolment(*file)
		if err != nil {
			return nil, err
		}
		return d.Rekey(ctx, ceremony.Change{Verb: "keeper add", Threshold: *threshold, Add: []identity.Enrolment{e}})
	})
}

func keeperReplaceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "replace NAME",
		Short: "Give a new keeper the place of one that is lost or leaves",
		Long:  "The new keeper may have the old one's name.\n" + keeperVerbHelp,
		Example: `  keybridge keeper replace keeper-3 --enrolment keeper-4/enrolment.json --root root.key.age --key-file root.key \
    --control control.internal:7443 --keeper keeper-1=k1.internal:7001 --keeper keeper-2=k2.internal:7001 --keeper keeper-4=k4.internal:7001`,
		Args: cobra.ExactArgs(1),
	}
	file := cmd.Flags().String("enrolment", "", "enrolment.json of the new keeper")
	threshold := thresholdFlag(cmd)
	required(cmd, "enrolment")
	return ceremonyCommand(cmd, "the new keeper has its share, and the old one's opens nothing", func(ctx context.Context, d *desk, args []string) (*ceremony.Outcome, error) {
		e, err := readEnrolment(*file)
		if err != nil {
			return nil, err
		}
		return d.Rekey(ctx, ceremony.Change{Verb: "keeper replace", Threshold: *threshold, Add: []identity.Enrolment{e}, Remove: args})
	})
}

func keeperRemoveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Take a keeper out, with a new set of shares for the others",
		Long:  keeperVerbHelp,
		Example: `  keybridge keeper remove keeper-3 --root root.key.age --key-file root.key --control control.internal:7443 \
    --keeper keeper-1=k1.internal:7001 --keeper keeper-2=k2.internal:7001 --keeper keeper-3=k3.internal:7001`,
		Args: cobra.ExactArgs(1),
	}
	threshold := thresholdFlag(cmd)
	return ceremonyCommand(cmd, "the keeper is out, and its share opens nothing", func(ctx context.Context, d *desk, args []string) (*ceremony.Outcome, error) {
		return d.Rekey(ctx, ceremony.Change{Verb: "keeper remove", Threshold: *threshold, Remove: args})
	})
}

func thresholdFlag(cmd *cobra.Command) *int {
	return cmd.Flags().Int("threshold", 0, "how many shares recover the new unseal key; 0: as many as now")
}
