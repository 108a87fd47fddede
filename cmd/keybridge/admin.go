package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
	"keybridge/store/api/client"
)

// adminFlags are those of every command that talks to the admin API. The defaults
// come from the environment; the token itself only ever from a file.
type adminFlags struct {
	url, tokenFile, root *string
	json                 *bool
}

func addAdminFlags(cmd *cobra.Command) adminFlags {
	f := cmd.PersistentFlags()
	return adminFlags{
		f.String("admin", os.Getenv("KEYBRIDGE_ADMIN"), "URL of the admin API ($KEYBRIDGE_ADMIN)"),
		f.String("token-file", os.Getenv("KEYBRIDGE_TOKEN_FILE"), "file with the admin token ($KEYBRIDGE_TOKEN_FILE)"),
		f.String("operator-root", os.Getenv("KEYBRIDGE_OPERATOR_ROOT"), "public half of the operator root, which vouches for the sealing key ($KEYBRIDGE_OPERATOR_ROOT)"),
		f.Bool("json", false, "print JSON"),
	}
}

func (f adminFlags) client(cmd *cobra.Command) (*client.Client, error) {
	if *f.url == "" || *f.tokenFile == "" {
		return nil, errors.New("say where the admin API is: --admin URL and --token-file FILE, or $KEYBRIDGE_ADMIN and $KEYBRIDGE_TOKEN_FILE")
	}
	token, err := readSecret(cmd, *f.tokenFile)
	if err != nil {
		return nil, err
	}
	return client.New(*f.url, string(token), client.Options{VerifySealingKey: f.verifySealingKey})
}

// verifySealingKey holds the sealing key against the pinned operator root: a
// secret is never sealed to a key that only the control plane vouches for.
func (f adminFlags) verifySealingKey(manifest []byte, keyID string) error {
	if *f.root == "" {
		return errors.New("sealing a secret needs the operator root to check the sealing key against: --operator-root FILE or $KEYBRIDGE_OPERATOR_ROOT")
	}
	raw, err := os.ReadFile(*f.root)
	if err != nil {
		return err
	}
	root, err := identity.ParseRoot(raw)
	if err != nil {
		return err
	}
	m, err := keyshare.Verify(root, manifest)
	if err != nil {
		return fmt.Errorf("the control plane's manifest: %w", err)
	}
	if !slices.ContainsFunc(m.SealingKeys, func(k keyshare.SealingKey) bool { return k.Current && k.ID == keyID }) {
		return fmt.Errorf("sealing key %s is not the manifest's current one", keyID)
	}
	return nil
}

// print writes v as JSON, or rows as a table under a header.
func (f adminFlags) print(cmd *cobra.Command, v any, header string, rows [][]string) error {
	if *f.json {
		e := json.NewEncoder(cmd.OutOrStdout())
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.ReplaceAll(header, " ", "\t"))
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// find returns the id of the one thing called nameOrID.
func find[T any](kind, nameOrID string, all []T, ids func(T) (id, name string)) (string, error) {
	var found []string
	for _, t := range all {
		if id, name := ids(t); id == nameOrID || name == nameOrID {
			found = append(found, id)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fmt.Errorf("no %s %q", kind, nameOrID)
	}
	return "", fmt.Errorf("%d %ss are called %q: use the id", len(found), kind, nameOrID)
}

func findWorkspace(ctx context.Context, c *client.Client, nameOrID string) (string, error) {
	all, err := c.Workspaces(ctx)
	if err != nil {
		return "", err
	}
	return find("workspace", nameOrID, all, func(w client.Workspace) (string, string) { return w.ID, w.Name })
}

func findRepo(ctx context.Context, c *client.Client, workspace, nameOrID string) (client.Repo, error) {
	all, err := c.Repos(ctx, workspace)
	if err != nil {
		return client.Repo{}, err
	}
	id, err := find("repository", nameOrID, all, func(r client.Repo) (string, string) { return r.ID, r.Name })
	if err != nil {
		return client.Repo{}, err
	}
	return all[slices.IndexFunc(all, func(r client.Repo) bool { return r.ID == id })], nil
}

func workspaceCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "workspace", Short: "Tenants: what belongs to one never reaches another"}
	f := addAdminFlags(cmd)
	cmd.AddCommand(
		&cobra.Command{
			Use: "create NAME", Short: "Make a workspace", Args: cobra.ExactArgs(1),
			Example: "  keybridge workspace create team-a",
			RunE: func(cmd *cobra.Command, args []string) error {
				c, err := f.client(cmd)
				if err != nil {
					return err
				}
				w, err := c.CreateWorkspace(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return f.print(cmd, w, "ID NAME", [][]string{{w.ID, w.Name}})
			},
		},
		&cobra.Command{
			Use: "list", Short: "List workspaces", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				c, err := f.client(cmd)
				if err != nil {
					return err
				}
				all, err := c.Workspaces(cmd.Context())
				if err != nil {
					return err
				}
				var rows [][]string
				for _, w := range all {
					rows = append(rows, []string{w.ID, w.Name})
				}
				return f.print(cmd, all, "ID NAME", rows)
			},
		})
	return cmd
}
