package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"keybridge/store/api/client"
)

func connectorCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "connector", Short: "Provider resources: a bucket, or an AI API"}
	f := addAdminFlags(cmd)
	workspace := cmd.PersistentFlags().String("workspace", "", "workspace, by name or id")
	cmd.AddCommand(connectorCreateCommand(f, workspace), connectorListCommand(f, workspace), connectorDeleteCommand(f, workspace))
	return cmd
}

func connectorCreateCommand(f adminFlags, workspace *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a connector; its secret is sealed here, before it is sent",
		Example: `  keybridge connector create photos --workspace team-a --type S3 --bucket photos --region eu-west-1 --key AKIA… --secret-file secret.txt
  pass show openai | keybridge connector create gpt --workspace team-a --type OPENAI --secret-file -`,
		Args: cobra.ExactArgs(1),
	}
	fl := cmd.Flags()
	kind := fl.String("type", "", "S3, OPENAI or OTHER (OpenAI-compatible)")
	bucket := fl.String("bucket", "", "S3: bucket name")
	region := fl.String("region", "", "S3: region, default us-east-1")
	endpoint := fl.String("endpoint", "", "URL; default: the provider's own")
	ca := fl.String("ca-file", "", "PEM certificates to verify the endpoint against instead of the system roots")
	key := fl.String("key", "", "S3: access key id")
	secret := fl.String("secret-file", "", "file with the provider's secret, - for standard input")
	configure := fl.Bool("allow-bucket-configuration", false, "S3: let ADMIN keys change bucket configuration and ACLs")
	required(cmd, "type", "secret-file")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, ws, err := f.inWorkspace(cmd, *workspace)
		if err != nil {
			return err
		}
		var pem []byte
		if *ca != "" {
			if pem, err = os.ReadFile(*ca); err != nil {
				return err
			}
		}
		raw, err := readSecret(cmd, *secret)
		if err != nil {
			return err
		}
		var id string
		if *kind == "S3" {
			id, err = c.CreateBucket(cmd.Context(), client.BucketSpec{
				WorkspaceID: ws, Name: args[0], Bucket: *bucket, Endpoint: *endpoint, Region: *region,
				CACertificate: string(pem), Key: *key, Secret: raw, AllowBucketConfiguration: *configure,
			})
		} else {
			id, err = c.CreateLLM(cmd.Context(), client.LLMSpec{
				WorkspaceID: ws, Name: args[0], AIType: *kind, Endpoint: *endpoint, CACertificate: string(pem), Secret: raw,
			})
		}
		if err != nil {
			return err
		}
		return f.print(cmd, map[string]string{"id": id}, "ID NAME", [][]string{{id, args[0]}})
	}
	return cmd
}

// inWorkspace returns a client and the id of the workspace that a flag names.
func (f adminFlags) inWorkspace(cmd *cobra.Command, nameOrID string) (*client.Client, string, error) {
	if nameOrID == "" {
		return nil, "", errors.New("name the workspace: --workspace NAME")
	}
	c, err := f.client(cmd)
	if err != nil {
		return nil, "", err
	}
	ws, err := findWorkspace(cmd.Context(), c, nameOrID)
	return c, ws, err
}

// connector is either kind, as lists show them.
type connector struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Type     string `json:"type"`
	Bucket   string `json:"bucket,omitempty"`
	Endpoint string `json:"endpoint"`
}

func connectors(ctx context.Context, c *client.Client, workspace string) ([]connector, error) {
	buckets, err := c.Buckets(ctx, workspace)
	if err != nil {
		return nil, err
	}
	llms, err := c.LLMs(ctx, workspace)
	if err != nil {
		return nil, err
	}
	var all []connector
	for _, b := range buckets {
		all = append(all, connector{b.ID, b.Name, b.StorageType, b.Bucket, b.Endpoint})
	}
	for _, l := range llms {
		all = append(all, connector{l.ID, l.Name, l.AIType, "", l.Endpoint})
	}
	return all, nil
}

func findConnector(nameOrID string, all []connector) (connector, error) {
	id, err := find("connector", nameOrID, all, func(c connector) (string, string) { return c.ID, c.Name })
	for _, c := range all {
		if err == nil && c.ID == id {
			return c, nil
		}
	}
	return connector{}, err
}

func connectorListCommand(f adminFlags, workspace *string) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List connectors", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, ws, err := f.inWorkspace(cmd, *workspace)
			if err != nil {
				return err
			}
			all, err := connectors(cmd.Context(), c, ws)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, x := range all {
				rows = append(rows, []string{x.ID, x.Name, x.Type, x.Bucket, x.Endpoint})
			}
			return f.print(cmd, all, "ID NAME TYPE BUCKET ENDPOINT", rows)
		},
	}
}

func connectorDeleteCommand(f adminFlags, workspace *string) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME|ID", Short: "Delete a connector and destroy its sealed secret", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, ws, err := f.inWorkspace(cmd, *workspace)
			if err != nil {
				return err
			}
			all, err := connectors(cmd.Context(), c, ws)
			if err != nil {
				return err
			}
			x, err := findConnector(args[0], all)
			if err != nil {
				return err
			}
			if x.Type == "S3" {
				err = c.DeleteBucket(cmd.Context(), x.ID)
			} else {
				err = c.DeleteLLM(cmd.Context(), x.ID)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "deleted %s\n", x.Name)
			return err
		},
	}
}
