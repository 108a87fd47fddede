package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"keybridge/store/api/client"
)

func repoCommand() *cobra.Command {
	cmd := group("repo", "Repositories: groups of connectors that keys give access to")
	s := addScopeFlags(cmd)
	cmd.AddCommand(repoCreateCommand(s), repoListCommand(s), repoSwitchCommand(s, true), repoSwitchCommand(s, false), repoDeleteCommand(s))
	return cmd
}

func repoCreateCommand(s scope) *cobra.Command {
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make a repository over connectors", Args: cobra.ExactArgs(1),
		Example: "  keybridge repo create web --workspace team-a --connector photos --connector gpt",
	}
	names := cmd.Flags().StringArray("connector", nil, "connector by name or id; repeat")
	complete(cmd, "connector", s.connectorNames, s)
	required(cmd, "connector")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		t, err := s.in(cmd)
		if err != nil {
			return err
		}
		all, err := t.connectors(cmd.Context())
		if err != nil {
			return err
		}
		spec := client.RepoSpec{WorkspaceID: t.id, Name: args[0]}
		if spec.Buckets, spec.LLMs, err = split(*names, all); err != nil {
			return err
		}
		id, err := t.CreateRepo(cmd.Context(), spec)
		if err != nil {
			return err
		}
		return s.done(cmd, map[string]string{"id": id, "name": args[0]}, "made repository %s, id %s", args[0], id)
	}
	return cmd
}

// split finds connectors by name and returns the ids of each kind.
func split(names []string, all []connector) (buckets, llms []string, err error) {
	for _, name := range names {
		x, err := pickConnector(name, all)
		if err != nil {
			return nil, nil, err
		}
		if x.storage() {
			buckets = append(buckets, x.ID)
		} else {
			llms = append(llms, x.ID)
		}
	}
	return buckets, llms, nil
}

func repoListCommand(s scope) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List repositories", Args: cobra.NoArgs,
		Example: "  keybridge repo list\n  keybridge repo list --workspace team-a --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, workspace, names, err := s.seen(cmd)
			if err != nil {
				return err
			}
			all, err := c.Repos(cmd.Context(), workspace)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, r := range all {
				rows = append(rows, []string{
					r.Name, names[r.WorkspaceID], enabled(!r.Disabled), strings.Join(repoConnectors(r), ","),
					fmt.Sprint(len(r.StorageKeys) + len(r.AIKeys)), r.ID,
				})
			}
			return s.print(cmd, listed(all), "NAME WORKSPACE STATE CONNECTORS KEYS ID", rows)
		},
	}
}

func enabled(yes bool) string {
	if yes {
		return "enabled"
	}
	return "disabled"
}

// repoConnectors are the names of a repository's connectors.
func repoConnectors(r client.Repo) (names []string) {
	for _, b := range r.Buckets {
		names = append(names, b.Bucket.Name)
	}
	for _, l := range r.LLMs {
		names = append(names, l.LLM.Name)
	}
	return names
}

func repoSwitchCommand(s scope, on bool) *cobra.Command {
	verb, short := "disable", "Stop all keys of a repository from working, at once and until it is enabled"
	if on {
		verb, short = "enable", "Let the keys of a disabled repository work again"
	}
	return &cobra.Command{
		Use: verb + " NAME|ID", Short: short, Args: cobra.ExactArgs(1),
		Example:           "  keybridge repo " + verb + " web --workspace team-a",
		ValidArgsFunction: s.completion(s.repoNames, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := s.in(cmd)
			if err != nil {
				return err
			}
			r, err := t.repo(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := t.SetRepoDisabled(cmd.Context(), r.ID, !on); err != nil {
				return err
			}
			return s.done(cmd, map[string]any{"id": r.ID, "name": r.Name, "disabled": !on}, "%sd repository %s", verb, r.Name)
		},
	}
}

func repoDeleteCommand(s scope) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME|ID", Short: "Delete a repository; its keys stop working", Args: cobra.ExactArgs(1),
		Example:           "  keybridge repo delete web --workspace team-a",
		ValidArgsFunction: s.completion(s.repoNames, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := s.in(cmd)
			if err != nil {
				return err
			}
			r, err := t.repo(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := t.DeleteRepo(cmd.Context(), r.ID); err != nil {
				return err
			}
			return s.done(cmd, deleted{r.ID, r.Name}, "deleted repository %s and its %s", r.Name, plural(len(r.StorageKeys)+len(r.AIKeys), "key"))
		},
	}
}
