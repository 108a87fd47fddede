package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keybridge/keyshare"
	"keybridge/keyshare/ceremony"
	"keybridge/keyshare/identity"
)

const peerVerbHelp = `Signs a new manifest; no share is asked for. It holds at once on the control plane
and the bridges connected to it, and on every keeper that is given by --keeper.

` + ceremonyHelp

// enrolPeerCommand is "bridge enrol", "control enrol" or "keeper enrol".
func enrolPeerCommand(role identity.Role) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "enrol",
		Short: "List a " + peerWord(role) + " in the manifest",
		Long: `A name that is listed already under another key is given the new key as its next
one (` + "`keybridge identity rotate`" + ` makes it): both are accepted, until --only ends the old one.
` + peerVerbHelp,
		Example: "  keybridge " + string(role) + " enrol --enrolment " + string(role) + `-2/enrolment.json --root root.key.age --key-file root.key \
    --control control.internal:7443 --keeper keeper-1=k1.internal:7001 --keeper keeper-2=k2.internal:7001 --keeper keeper-3=k3.internal:7001`,
		Args: cobra.NoArgs,
	}
	if role == identity.RoleKeeper {
		cmd.Short = "List a keeper's next key in the manifest"
		cmd.Long = `Lists what ` + "`keybridge identity rotate`" + ` made on the keeper's host. The keeper, which runs on,
uses the new key from then on, and the old one is accepted beside it, until --only ends it:
not before the keeper uses the new one. The share stays as it is. A keeper that is not in the
manifest needs a share: ` + "`keybridge keeper add`" + `.
` + peerVerbHelp
		cmd.Example = strings.ReplaceAll(cmd.Example, "keeper-2/", "keeper-1/")
	}
	f := cmd.Flags()
	file := f.String("enrolment", "", "its enrolment.json")
	only := f.Bool("only", false, "accept this key only: end the other one of a process whose key is being replaced")
	expires := f.Duration("expires-in", 0, "when the enrolment ends by itself; default: never, or when it does now")
	workspaces := new([]string)
	if role == identity.RoleBridge {
		workspaces = f.StringSlice("workspaces", nil, "workspaces of the bridge, as UUID,UUID; default: all, or those that it has")
	}
	required(cmd, "enrolment")
	return newCeremonyCommand(cmd, "enrolled", role == identity.RoleControl, func(ctx context.Context, d *desk, _ []string) (*ceremony.Outcome, error) {
		e, err := readEnrolment(*file)
		if err != nil {
			return nil, err
		}
		if e.Role != role {
			return nil, &hinted{errRole{e, role}, "keybridge " + string(e.Role) + " --help"}
		}
		var end *time.Time
		if *expires != 0 {
			end = after(*expires)
		}
		return d.Enrol(ctx, ceremony.Enrolling{Enrolment: e, Only: *only, Workspaces: *workspaces, NotAfter: end})
	})
}

// errRole is an enrolment that was given to the wrong command.
type errRole struct {
	e    identity.Enrolment
	want identity.Role
}

func (e errRole) Error() string {
	return e.e.Name + " applied as " + string(e.e.Role) + ", not as " + string(e.want)
}

// revokePeerCommand is "bridge revoke" or "control revoke".
func revokePeerCommand(role identity.Role) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "revoke NAME",
		Short: "Strike a " + peerWord(role) + " off the manifest",
		Long:  strings.TrimSpace(peerVerbHelp),
		Example: "  keybridge " + string(role) + " revoke " + string(role) + `-2 --root root.key.age --key-file root.key --control control.internal:7443 \
    --keeper keeper-1=k1.internal:7001 --keeper keeper-2=k2.internal:7001 --keeper keeper-3=k3.internal:7001`,
		Args: cobra.ExactArgs(1),
	}
	return newCeremonyCommand(cmd, "revoked", role == identity.RoleControl, func(ctx context.Context, d *desk, args []string) (*ceremony.Outcome, error) {
		out, err := d.Revoke(ctx, role, args[0])
		if err == nil && out.Resumed {
			// Revoked by an earlier run, or never listed: a wrong name must not pass for the former.
			d.print.step(ceremony.Step{Step: "note", Detail: fmt.Sprintf("no %s %s is listed; listed are: %s",
				peerWord(role), args[0], strings.Join(enrolledNames(d.Trust.Manifest(), role), ", "))})
		}
		return out, err
	})
}

// enrolledNames are the names of a role in a manifest.
func enrolledNames(m *keyshare.Manifest, role identity.Role) (names []string) {
	if role == identity.RoleControl {
		for _, c := range m.ControlPlanes {
			names = append(names, c.Name)
		}
		return names
	}
	for _, b := range m.Bridges {
		names = append(names, b.Name)
	}
	return names
}

func peerWord(role identity.Role) string {
	if role == identity.RoleControl {
		return "control plane"
	}
	return string(role)
}
