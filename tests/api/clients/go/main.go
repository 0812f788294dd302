// Creates, lists, changes, rotates and revokes a key through the generated Go client.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	client "example.com/keyward/client"
)

func check(ok bool, what string) {
	if !ok {
		fmt.Fprintln(os.Stderr, what)
		os.Exit(1)
	}
}

func must[T any](value T, _ any, err error) T {
	check(err == nil, fmt.Sprint(err))
	return value
}

func main() {
	configuration := client.NewConfiguration()
	configuration.Servers = client.ServerConfigurations{{URL: os.Getenv("KEYWARD_URL")}}
	api := client.NewAPIClient(configuration)
	ctx := context.WithValue(context.Background(), client.ContextAccessToken, os.Getenv("KEYWARD_ADMIN_TOKEN"))

	plan := client.NewPlanSettings()
	plan.SetLimits([]string{"10/s"})
	plan.SetCredits(100)
	must(api.PlansAPI.SetPlan(ctx, "go").PlanSettings(*plan).Execute())

	wanted := client.NewKeyCreate("go")
	wanted.SetOwner("go")
	wanted.SetPlan("go")
	wanted.SetScopes([]string{"read"})
	wanted.SetAllowIp([]string{"10.0.0.0/8"})
	wanted.SetMetadata(map[string]string{"team": "core"})
	wanted.SetExpiresInS(3600)
	made := must(api.KeysAPI.CreateKey(ctx).KeyCreate(*wanted).Execute())
	check(strings.HasPrefix(made.GetKey(), "kw_live_") && made.GetMetadata()["team"] == "core", "created")
	check(made.GetExpiresAt().After(made.GetCreatedAt()) && made.GetRevokedAt().IsZero(), "expiry")

	listed := must(api.KeysAPI.ListKeys(ctx).Owner("go").Execute())
	check(len(listed.Keys) == 1 && listed.Keys[0].Id == made.Id, "listed")

	change := client.NewKeyChange()
	change.SetName("renamed")
	beta := "beta"
	change.SetMetadata(map[string]*string{"team": nil, "stage": &beta})
	changed := must(api.KeysAPI.ChangeKey(ctx, made.Id).KeyChange(*change).Execute())
	check(changed.Name == "renamed" && len(changed.Metadata) == 1 && changed.Metadata["stage"] == "beta", "changed")

	rotation := client.NewRotation()
	rotation.SetGraceS(60)
	rotated := must(api.KeysAPI.RotateKey(ctx, made.Id).Rotation(*rotation).Execute())
	check(rotated.GetKey() != made.GetKey() && len(rotated.Secrets) == 2, "rotated")

	revoked := must(api.KeysAPI.RevokeKey(ctx, made.Id).Execute())
	check(revoked.State == "revoked", "revoked")

	bad := client.NewKeyCreate("go")
	bad.SetPlan("missing")
	_, response, err := api.KeysAPI.CreateKey(ctx).KeyCreate(*bad).Execute()
	check(err != nil && response != nil && response.StatusCode == 422, "a key on a plan that does not exist")
}
