package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keybridge/store/api/client"
)

func tokenCommand() *cobra.Command {
	cmd := group("token", "Admin tokens: who may use the admin API, and for what")
	s := scope{adminFlags: addAdminFlags(cmd), workspace: new(string)}
	cmd.AddCommand(tokenCreateCommand(s), tokenListCommand(s), tokenRevokeCommand(s))
	return cmd
}

func tokenCreateCommand(s scope) *cobra.Command {
	cmd := &cobra.Command{
		Use: "create", Short: "Make a token and print it, this once", Args: cobra.NoArgs,
		Long: `Makes a token with a role in each workspace that is named: READ sees, WRITE makes and changes
connectors, repositories and keys, ADMIN also workspaces and tokens. "*" is all workspaces.
Nobody can give more than they have.`,
		Example: `  keybridge token create --name alice --role team-a=ADMIN --out alice.token
  keybridge token create --name ci --role team-a=WRITE --role team-b=READ --expires-in 2160h --out ci.token
  keybridge token create --name grafana --role '*=READ'`,
	}
	name := cmd.Flags().String("name", "", "whose it is, or what for")
	roles := cmd.Flags().StringArray("role", nil, "WORKSPACE=READ, WRITE or ADMIN; repeat")
	ttl := cmd.Flags().Duration("expires-in", 0, "how long the token is good for, e.g. 2160h; 0: for ever")
	out := cmd.Flags().String("out", "", "write the token to this new file, mode 0600, instead of printing it")
	required(cmd, "name", "role")
	err := cmd.RegisterFlagCompletionFunc("role", s.completion(func(ctx context.Context, c *client.Client, _ []string) ([]string, error) {
		names, err := workspaceNames(ctx, c)
		var all []string
		for _, n := range append(names, "*") {
			all = append(all, n+"=READ", n+"=WRITE", n+"=ADMIN")
		}
		return all, err
	}, -1))
	if err != nil {
		panic(err) // a flag that this very command defined
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *ttl < 0 {
			return errors.New("--expires-in lies in the past")
		}
		named, err := pairs("role", *roles)
		if err != nil {
			return err
		}
		c, err := s.client(cmd)
		if err != nil {
			return err
		}
		byID, err := roleIDs(cmd.Context(), c, named)
		if err != nil {
			return err
		}
		var file *os.File
		if *out != "" { // before the token is made: it cannot be shown again
			if file, err = os.OpenFile(*out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
				return err
			}
			defer file.Close()
		}
		id, token, err := c.CreateToken(cmd.Context(), *name, byID, after(*ttl))
		if err != nil {
			if file != nil {
				err = errors.Join(err, os.Remove(*out))
			}
			return err
		}
		defer clear(token)
		if file != nil {
			if _, err := fmt.Fprintf(file, "%s\n", string(token)); err != nil {
				return err
			}
			if err := file.Close(); err != nil {
				return err
			}
			return s.done(cmd, map[string]string{"id": id, "file": *out}, "made token %s, id %s, in %s", *name, id, *out)
		}
		if *s.json {
			return writeJSON(cmd.OutOrStdout(), map[string]string{"id": id, "token": string(token)})
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", string(token))
		fmt.Fprintln(cmd.ErrOrStderr(), "The token is shown this once.")
		return err
	}
	return cmd
}

// roleIDs has roles by workspace id instead of name.
func roleIDs(ctx context.Context, c *client.Client, named map[string]string) (map[string]string, error) {
	all, err := c.Workspaces(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for name, role := range named {
		if name == "*" {
			out[name] = role
			continue
		}
		w, err := pick("workspace", name, all, func(w client.Workspace) []string { return []string{w.ID, w.Name} })
		if err != nil {
			return nil, err
		}
		out[w.ID] = role
	}
	return out, nil
}

func tokenListCommand(s scope) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List tokens, without what would let one use them", Args: cobra.NoArgs,
		Example: "  keybridge token list\n  keybridge token list --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, names, err := s.seen(cmd)
			if err != nil {
				return err
			}
			all, err := c.Tokens(cmd.Context())
			if err != nil {
				return err
			}
			var rows [][]string
			for _, t := range all {
				var roles []string
				for _, id := range slices.Sorted(maps.Keys(t.Roles)) {
					name := id
					if names[id] != "" {
						name = names[id]
					}
					roles = append(roles, name+"="+t.Roles[id])
				}
				rows = append(rows, []string{t.Name, strings.Join(roles, ","), day(t.CreatedAt), expiry(t.ExpiresAt, time.Now()), t.ID})
			}
			return s.print(cmd, listed(all), "NAME ROLES CREATED EXPIRES ID", rows)
		},
	}
}

func tokenRevokeCommand(s scope) *cobra.Command {
	return &cobra.Command{
		Use: "revoke NAME|ID", Short: "Make a token useless, at once and for ever", Args: cobra.ExactArgs(1),
		Example: "  keybridge token revoke ci",
		ValidArgsFunction: s.completion(func(ctx context.Context, c *client.Client, _ []string) (names []string, err error) {
			all, err := c.Tokens(ctx)
			for _, t := range all {
				names = append(names, t.Name)
			}
			return names, err
		}, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.client(cmd)
			if err != nil {
				return err
			}
			all, err := c.Tokens(cmd.Context())
			if err != nil {
				return err
			}
			t, err := pick("token", args[0], all, func(t client.Token) []string { return []string{t.ID, t.Name} })
			if err != nil {
				return err
			}
			if err := c.DeleteToken(cmd.Context(), t.ID); err != nil {
				return err
			}
			return s.done(cmd, deleted{t.ID, t.Name}, "revoked token %s", t.Name)
		},
	}
}
