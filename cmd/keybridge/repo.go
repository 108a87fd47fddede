package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keybridge/store/api/client"
)

func repoCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "repo", Short: "Repositories: groups of connectors that keys give access to"}
	f := addAdminFlags(cmd)
	workspace := cmd.PersistentFlags().String("workspace", "", "workspace, by name or id")

	create := &cobra.Command{
		Use: "create NAME", Short: "Make a repository over connectors", Args: cobra.ExactArgs(1),
		Example: "  keybridge repo create web --workspace team-a --connector photos --connector gpt",
	}
	names := create.Flags().StringArray("connector", nil, "connector by name or id; repeat")
	required(create, "connector")
	create.RunE = func(cmd *cobra.Command, args []string) error {
		c, ws, err := f.inWorkspace(cmd, *workspace)
		if err != nil {
			return err
		}
		all, err := connectors(cmd.Context(), c, ws)
		if err != nil {
			return err
		}
		spec := client.RepoSpec{WorkspaceID: ws, Name: args[0]}
		for _, name := range *names {
			x, err := findConnector(name, all)
			if err != nil {
				return err
			}
			if x.Type == "S3" {
				spec.Buckets = append(spec.Buckets, x.ID)
			} else {
				spec.LLMs = append(spec.LLMs, x.ID)
			}
		}
		id, err := c.CreateRepo(cmd.Context(), spec)
		if err != nil {
			return err
		}
		return f.print(cmd, map[string]string{"id": id}, "ID NAME", [][]string{{id, args[0]}})
	}

	list := &cobra.Command{
		Use: "list", Short: "List repositories", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, ws, err := f.inWorkspace(cmd, *workspace)
			if err != nil {
				return err
			}
			all, err := c.Repos(cmd.Context(), ws)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, r := range all {
				var parts []string
				for _, b := range r.Buckets {
					parts = append(parts, b.Bucket.Name)
				}
				for _, l := range r.LLMs {
					parts = append(parts, l.LLM.Name)
				}
				rows = append(rows, []string{r.ID, r.Name, strings.Join(parts, ","), fmt.Sprint(len(r.StorageKeys) + len(r.AIKeys))})
			}
			return f.print(cmd, all, "ID NAME CONNECTORS KEYS", rows)
		},
	}

	remove := &cobra.Command{
		Use: "delete NAME|ID", Short: "Delete a repository; its keys stop working", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, ws, err := f.inWorkspace(cmd, *workspace)
			if err != nil {
				return err
			}
			r, err := findRepo(cmd.Context(), c, ws, args[0])
			if err != nil {
				return err
			}
			if err := c.DeleteRepo(cmd.Context(), r.ID); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "deleted %s\n", r.Name)
			return err
		},
	}
	cmd.AddCommand(create, list, remove)
	return cmd
}

func keyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "key", Short: "Repository keys: what applications hold"}
	f := addAdminFlags(cmd)
	workspace := cmd.PersistentFlags().String("workspace", "", "workspace, by name or id")
	repo := cmd.PersistentFlags().String("repo", "", "repository, by name or id")
	inRepo := func(cmd *cobra.Command) (*client.Client, client.Repo, error) {
		c, ws, err := f.inWorkspace(cmd, *workspace)
		if err != nil {
			return nil, client.Repo{}, err
		}
		if *repo == "" {
			return nil, client.Repo{}, errors.New("name the repository: --repo NAME")
		}
		r, err := findRepo(cmd.Context(), c, ws, *repo)
		return c, r, err
	}

	create := &cobra.Command{
		Use: "create", Short: "Make a key and print its secret, this once", Args: cobra.NoArgs,
		Example: `  keybridge key create --workspace team-a --repo web --name web-1 --access READ
  keybridge key create --workspace team-a --repo web --name bot --ai`,
	}
	name := create.Flags().String("name", "", "what the key is for")
	access := create.Flags().String("access", "READ", "storage keys: READ, WRITE or ADMIN")
	ai := create.Flags().Bool("ai", false, "make an AI key")
	aiType := create.Flags().String("ai-type", "OPENAI", "AI keys: OPENAI or OTHER")
	ttl := create.Flags().Duration("expires-in", 0, "how long the key is good for, e.g. 720h; 0: for ever")
	required(create, "name")
	create.RunE = func(cmd *cobra.Command, _ []string) error {
		c, r, err := inRepo(cmd)
		if err != nil {
			return err
		}
		spec := client.KeySpec{Name: *name}
		if *ttl > 0 {
			expires := time.Now().Add(*ttl)
			spec.ExpiresAt = &expires
		}
		var issued client.IssuedKey
		if *ai {
			spec.AIType = *aiType
			issued, err = c.CreateAIKey(cmd.Context(), r.ID, spec)
		} else {
			spec.AccessType = *access
			issued, err = c.CreateStorageKey(cmd.Context(), r.ID, spec)
		}
		if err != nil {
			return err
		}
		// The one place where a repository key's secret is shown.
		shown := map[string]string{"id": issued.ID, "key": issued.Key, "secret": string(issued.Secret)}
		return f.print(cmd, shown, "ID KEY SECRET", [][]string{{issued.ID, issued.Key, string(issued.Secret)}})
	}

	list := &cobra.Command{
		Use: "list", Short: "List keys, without their secrets", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, r, err := inRepo(cmd)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, k := range append(r.StorageKeys, r.AIKeys...) {
				rows = append(rows, []string{k.ID, k.Name, k.Key, k.AccessType + k.AIType})
			}
			return f.print(cmd, append(r.StorageKeys, r.AIKeys...), "ID NAME KEY ACCESS", rows)
		},
	}

	remove := &cobra.Command{
		Use: "delete ID", Short: "Revoke a key on every bridge", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, r, err := inRepo(cmd)
			if err != nil {
				return err
			}
			storage := false
			for _, k := range r.StorageKeys {
				storage = storage || k.ID == args[0]
			}
			if storage {
				err = c.DeleteStorageKey(cmd.Context(), r.ID, args[0])
			} else {
				err = c.DeleteAIKey(cmd.Context(), r.ID, args[0])
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "revoked %s\n", args[0])
			return err
		},
	}
	cmd.AddCommand(create, list, remove)
	return cmd
}
