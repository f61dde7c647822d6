// One client's checks, told as one JSON object on standard output; see report.py.
import { readFileSync } from "node:fs";

export const { API_KEY, BASE_URL, PROVIDER_URL, MODULES } = process.env;
export const CITY = '{"city": "Oslo"}';

export const play = (directive = {}) => "please " + JSON.stringify({ do: "ok", ...directive });
export const calls = async () => (await (await fetch(`${PROVIDER_URL}/_calls`)).json()).calls;

export function expect(truth, otherwise) {
  if (!truth) throw new Error(otherwise);
}

export async function raises(kind, call) {
  try {
    await call();
  } catch (error) {
    if (error instanceof kind) return error;
    throw new Error(`${error?.constructor?.name}: ${error}`);
  }
  throw new Error("no exception");
}

export const once = (check) => async () => {
  await check();
  const { length } = await calls();
  expect(length === 2, `${length} calls at the provider`); // the sidecar's router tries twice
};

export async function leftByTheCaller() {
  for (let look = 0; look < 40; look += 1) {
    if ((await calls()).some((call) => call.client_left_s !== null)) return true;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return false;
}

export async function tell(client, module, checks) {
  const results = {};
  for (const [name, check] of Object.entries(checks)) {
    await fetch(`${PROVIDER_URL}/_reset`, { method: "POST" });
    try {
      await check();
      results[name] = "";
    } catch (error) {
      results[name] = String(error?.message ?? error).slice(0, 300) || "not as expected";
    }
  }
  const { version } = JSON.parse(readFileSync(`${MODULES}/${module}/package.json`, "utf8"));
  process.stdout.write(JSON.stringify({ client, version, checks: results }) + "\n", () => process.exit(0));
}
