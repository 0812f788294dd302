// Creates, lists, changes, rotates and revokes a key through the generated TypeScript client.
import { Configuration, KeysApi, PlansApi, ResponseError } from "./client";

function check(ok: boolean, what: string): void {
  if (!ok) throw new Error(what);
}

async function main(): Promise<void> {
  const configuration = new Configuration({
    basePath: process.env.KEYWARD_URL,
    accessToken: process.env.KEYWARD_ADMIN_TOKEN,
  });
  const keys = new KeysApi(configuration);
  const plans = new PlansApi(configuration);
  await plans.setPlan({ id: "typescript", planSettings: { limits: ["10/s"], credits: 100 } });
  const made = await keys.createKey({
    keyCreate: {
      name: "typescript",
      owner: "typescript",
      plan: "typescript",
      scopes: ["read"],
      allowIp: ["10.0.0.0/8"],
      metadata: { team: "core" },
      expiresInS: 3600,
    },
  });
  check(made.key!.startsWith("kw_live_") && made.metadata["team"] === "core", "created");
  check(made.expiresAt! > made.createdAt && made.revokedAt == null, "expiry");
  const listed = await keys.listKeys({ owner: "typescript" });
  check(listed.keys.length === 1 && listed.keys[0].id === made.id, "listed");
  const changed = await keys.changeKey({
    id: made.id,
    keyChange: { name: "renamed", metadata: { team: null, stage: "beta" } },
  });
  check(changed.name === "renamed" && JSON.stringify(changed.metadata) === '{"stage":"beta"}', "changed");
  const rotated = await keys.rotateKey({ id: made.id, rotation: { graceS: 60 } });
  check(rotated.key !== made.key && rotated.secrets.length === 2, "rotated");
  const revoked = await keys.revokeKey({ id: made.id });
  check(revoked.state === "revoked", "revoked");
  const refused = await keys.createKey({ keyCreate: { name: "typescript", plan: "missing" } }).then(
    () => 0,
    (error) => (error instanceof ResponseError ? error.response.status : -1),
  );
  check(refused === 422, `a key on a plan that does not exist: ${refused}`);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
