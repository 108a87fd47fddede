package main

import (
	"context"

	"github.com/spf13/cobra"

	"keybridge/store/api/client"
)

func workspaceCommand() *cobra.Command {
	cmd := group("workspace", "Tenants: what belongs to one never reaches another")
	s := scope{adminFlags: addAdminFlags(cmd), workspace: new(string)}
	cmd.AddCommand(
		&cobra.Command{
			Use: "create NAME", Short: "Make a workspace", Args: cobra.ExactArgs(1),
			Example: "  keybridge workspace create team-a",
			RunE: func(cmd *cobra.Command, args []string) error {
				c, err := s.client(cmd)
				if err != nil {
					return err
				}
				w, err := c.CreateWorkspace(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return s.done(cmd, w, "made workspace %s, id %s", w.Name, w.ID)
			},
		},
		&cobra.Command{
			Use: "list", Short: "List workspaces", Args: cobra.NoArgs,
			Example: "  keybridge workspace list\n  keybridge workspace list --json | jq -r '.[].name'",
			RunE: func(cmd *cobra.Command, _ []string) error {
				c, err := s.client(cmd)
				if err != nil {
					return err
				}
				all, err := c.Workspaces(cmd.Context())
				if err != nil {
					return err
				}
				var rows [][]string
				for _, w := range all {
					rows = append(rows, []string{w.Name, w.ID, day(w.CreatedAt)})
				}
				return s.print(cmd, listed(all), "NAME ID CREATED", rows)
			},
		},
		&cobra.Command{
			Use: "rename NAME|ID NEW", Short: "Give a workspace another name", Args: cobra.ExactArgs(2),
			Example: "  keybridge workspace rename team-a team-one",
			ValidArgsFunction: s.completion(func(ctx context.Context, c *client.Client, _ []string) ([]string, error) {
				return workspaceNames(ctx, c)
			}, 1),
			RunE: func(cmd *cobra.Command, args []string) error {
				s.workspace = &args[0]
				t, err := s.in(cmd)
				if err != nil {
					return err
				}
				if err := t.RenameWorkspace(cmd.Context(), t.id, args[1]); err != nil {
					return err
				}
				return s.done(cmd, map[string]string{"id": t.id, "name": args[1]}, "renamed workspace %s to %s", t.name, args[1])
			},
		},
		&cobra.Command{
			Use: "delete NAME|ID", Short: "Delete an empty workspace", Args: cobra.ExactArgs(1),
			Example: "  keybridge workspace delete team-a",
			ValidArgsFunction: s.completion(func(ctx context.Context, c *client.Client, _ []string) ([]string, error) {
				return workspaceNames(ctx, c)
			}, 1),
			RunE: func(cmd *cobra.Command, args []string) error {
				s.workspace = &args[0]
				t, err := s.in(cmd)
				if err != nil {
					return err
				}
				if err := t.DeleteWorkspace(cmd.Context(), t.id); err != nil {
					return err
				}
				return s.done(cmd, deleted{t.id, t.name}, "deleted workspace %s", t.name)
			},
		})
	return cmd
}

// deleted is what --json says of something that is gone.
type deleted struct {
	ID   string `json:"deleted"`
	Name string `json:"name,omitempty"`
}

// listed is a list that is [] in JSON when it is empty.
func listed[T any](all []T) []T {
	if all == nil {
		return []T{}
	}
	return all
}
