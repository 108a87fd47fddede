package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"keybridge/store/api/client"
)

// hinted is an error that knows what to do about it.
type hinted struct {
	error
	hint string
}

func (h *hinted) Unwrap() error { return h.error }

// exitStatus ends the process with a status other than 1; whatever there was to
// say has been said.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// fail prints a command's error and returns the status to exit with.
func fail(w io.Writer, cmd *cobra.Command, err error) int {
	var status exitStatus
	if errors.As(err, &status) {
		return int(status)
	}
	message, hint := explain(err)
	if hint == "" && strings.HasPrefix(message, "required flag(s)") { // cobra's own check, after which no hook runs
		hint = cmd.CommandPath() + " --help"
	}
	fmt.Fprintln(w, "keybridge:", message)
	if hint != "" {
		fmt.Fprintln(w, "  hint:", hint)
	}
	return 1
}

// group is a command that only has subcommands.
func group(use, short string) *cobra.Command {
	return &cobra.Command{Use: use, Short: short}
}

// polish has a command and all below it say what is wrong with a command line in
// this program's own way.
func polish(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		polish(c)
	}
	if cmd.HasSubCommands() && !cmd.Runnable() {
		cmd.Args = subcommand
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		return
	}
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if check(cmd, args) != nil {
				return &hinted{fmt.Errorf("usage: %s", cmd.UseLine()), cmd.CommandPath() + " --help"}
			}
			return nil
		}
	}
}

// subcommand is the answer to a subcommand that there is not.
func subcommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	err, hint := fmt.Errorf("there is no %s %s", cmd.CommandPath(), args[0]), cmd.CommandPath()+" --help"
	if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
		hint = "did you mean: " + cmd.CommandPath() + " " + like[0]
	}
	return &hinted{err, hint}
}

// explain is what an error says, with its code if it is the admin API's, and what
// to do about it; the hint is empty when nobody knows.
func explain(err error) (message, hint string) {
	lines := strings.Split(err.Error(), "\n")
	for i := range lines {
		lines[i] = printable(lines[i])
	}
	message = strings.Join(lines, "\n")
	var h *hinted
	if errors.As(err, &h) {
		return message, h.hint
	}
	var refused *client.Error
	if errors.As(err, &refused) {
		switch {
		case refused.RetryAfter > 0:
			return message, fmt.Sprintf("try again in %s", span(refused.RetryAfter))
		case refused.Code == "":
			return message, "that was not the admin API's answer; check --admin, or a proxy before it"
		}
		return message, hints[refused.Code]
	}
	var unreachable *url.Error
	if errors.As(err, &unreachable) {
		return message, "is the control plane running there? $" + envAdmin + " or --admin says where"
	}
	return message, ""
}

// forbidden reports whether an error is that the token's role does not suffice.
func forbidden(err error) bool {
	var refused *client.Error
	return errors.As(err, &refused) && refused.Code == "FORBIDDEN"
}

// hints say what to do about an error code of the admin API; docs/errors.md says more.
var hints = map[string]string{
	"FORBIDDEN":              "use a token with a higher role in this workspace: keybridge token list",
	"AUDIT_UNAVAILABLE":      "the control plane cannot write its audit log; look at its disk and its log",
	"IDEMPOTENCY_KEY_REUSED": "use a fresh Idempotency-Key for a different request",
	"ID_TAKEN":               "run the command again: it makes a new id each time",
	"INTERNAL":               "the control plane's log has the reason",
	"IN_USE":                 "`keybridge repo list` and `keybridge connector list` show who uses it",
	"NAME_ALREADY_USED":      "choose another name, or look at what has it with the list command",
	"NOT_FOUND":              "names and ids are those of the list command; another workspace's are not found",
	"LAST_ADMIN":             "make another first: keybridge token create --role '*=ADMIN'",
	"NO_BRIDGE":              "keybridge node list shows the bridges; --no-validate does without",
	"PROBE_FAILED":           "try again; the bridge's log may say more",
	"PROVIDER_REFUSED":       "the bridge heard that from the provider, or why it heard nothing; check key, secret, bucket, region and endpoint",
	"NO_SEALING_KEY":         "the manifest in the store names no current sealing key; the control plane's log says more",
	"SEALED_MISMATCH":        "it was changed meanwhile; run the command again",
	"SEALING_KEY_CHANGED":    "run the command again: it seals to the new key",
	"SECRET_SHOWN_ONCE":      "delete the key and make another: keybridge key delete, keybridge key create",
	"TOO_LARGE":              "is that the file you meant?",
	"TOO_MANY_REQUESTS":      "wait a little and try again",
	"UNAUTHORIZED":           "the token is unknown, expired or revoked; $" + envTokenFile + " or --token-file says which file is read",
	"UNAVAILABLE":            "the store is busy or closing; try again",
	"VERSION_MISMATCH":       "it was changed meanwhile; look at it and run the command again",
	"VERSION_CONFLICT":       "it was changed meanwhile; run the command again",
	"WORKSPACE_NOT_EMPTY":    "delete its repositories, connectors and credentials first",
}
