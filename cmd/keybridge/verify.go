package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"keybridge/keyshare/ceremony"
)

func verifyCommand() *cobra.Command {
	return keepersCommand(&cobra.Command{
		Use:   "verify",
		Short: "Fire drill: have every keeper prove its share, without releasing one",
		Long: `Each keeper signs a fresh nonce with a key derived from its share, which is checked
against the manifest; the control plane shows manifest and keyring. Nothing is changed
and no share leaves its keeper. Exit status 0: all is well; 3: a keeper is not, but
enough of them are; 1: bridges could not start, or the control plane was rolled back.`,
		Example: `  keybridge verify --root root.key.age --key-file root.key --control control.internal:7443 \
    --keeper keeper-1=k1.internal:7001 --keeper keeper-2=k2.internal:7001 --keeper keeper-3=k3.internal:7001`,
		Args: cobra.NoArgs,
	}, true)
}

func keeperStatusCommand() *cobra.Command {
	return keepersCommand(&cobra.Command{
		Use:   "status",
		Short: "Show what every keeper holds",
		Long: `Asks each keeper which share it holds, which one is staged, which are over and not
erased yet, and which manifest it knows. Exit status as of "keybridge verify".`,
		Example: `  keybridge keeper status --root root.key.age --key-file root.key --control control.internal:7443 \
    --keeper keeper-1=k1.internal:7001 --keeper keeper-2=k2.internal:7001 --keeper keeper-3=k3.internal:7001`,
		Args: cobra.NoArgs,
	}, false)
}

func keepersCommand(cmd *cobra.Command, prove bool) *cobra.Command {
	f := addDeskFlags(cmd)
	required(cmd, "control")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		d, err := f.open(cmd)
		if err != nil {
			return err
		}
		defer d.close()
		states, out, err := d.Verify(cmd.Context(), prove)
		if out == nil {
			return d.print.finish(nil, err, "")
		}
		well := true
		for _, k := range states {
			well = well && k.Problem == "" && k.Version == out.Version && len(k.RetiredEpoch) == 0
		}
		if perr := d.print.keepers(states, out, err); perr != nil {
			return perr
		}
		switch {
		case err != nil:
			return exitStatus(1)
		case !well:
			return exitUnfinished
		}
		return nil
	}
	return cmd
}

func (p printer) keepers(states []ceremony.KeeperState, out *ceremony.Outcome, bad error) error {
	if p.json {
		var errs []error
		for _, k := range states {
			errs = append(errs, p.line(k))
		}
		r := result{Result: "done", Outcome: out}
		if bad != nil {
			r.Result, r.Error = "failed", bad.Error()
		}
		return errors.Join(append(errs, p.line(r))...)
	}
	rows := [][]string{{"KEEPER", "SHARE", "EPOCH", "MANIFEST", "STAGED", "OLD", "PROBLEM"}}
	for _, k := range states {
		share := "no"
		switch {
		case k.Proven:
			share = "proven"
		case k.Holds:
			share = "held"
		}
		rows = append(rows, []string{
			k.Keeper, share, number(k.Epoch), number(k.Version), number(k.StagedEpoch),
			strings.Trim(fmt.Sprint(k.RetiredEpoch), "[]"), k.Problem,
		})
	}
	if err := table(p.out, rows); err != nil {
		return err
	}
	_, err := fmt.Fprintf(p.out, "in force: manifest version %d, epoch %d, %d of %d keepers open\n", out.Version, out.Epoch, out.Threshold, out.Shares)
	if bad != nil {
		_, err = fmt.Fprintf(p.progress, "keybridge: %s\n", printable(bad.Error()))
	}
	return err
}

func number(n uint64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}
