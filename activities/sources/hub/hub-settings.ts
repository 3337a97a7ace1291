import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';

/** How the Hugging Face hub is reached, and where what comes from it is kept. */
export interface HubSettings {
  /** Without a slash at its end. */
  endpoint: string;
  /** Laid out as Python's huggingface_hub does: what one has fetched, the other uses. */
  cacheDirectory: string;
  /** Sent to the endpoint only. */
  token?: string;
  /** Nothing is asked of the network; what the cache has is used. */
  offline: boolean;
}

const publicEndpoint = 'https://huggingface.co';

/**
 * The settings that huggingface_hub takes from the environment, under the same names and with the same defaults: HF_ENDPOINT
 * (https://huggingface.co), HF_HUB_CACHE (HF_HOME/hub), HF_HOME (~/.cache/huggingface), HF_TOKEN or the file that
 * `hf auth login` writes (HF_TOKEN_PATH, HF_HOME/token), HF_HUB_DISABLE_IMPLICIT_TOKEN, HF_HUB_OFFLINE.
 */
export function hubSettings(env: NodeJS.ProcessEnv = process.env): HubSettings {
  const value = (...names: string[]) => names.map((name) => env[name]?.trim()).find((text) => text !== undefined && text !== '');
  const path = (text: string) => text.replace(/^~(?=$|\/)/, env.HOME ?? homedir()).replace(/\$\{?(\w+)\}?/g, (whole, name: string) => env[name] ?? whole);
  const isTrue = (name: string) => ['1', 'on', 'yes', 'true'].includes(env[name]?.toLowerCase() ?? '');
  const home = path(value('HF_HOME') ?? join(value('XDG_CACHE_HOME') ?? '~/.cache', 'huggingface'));
  return {
    endpoint: (value('HF_ENDPOINT') ?? publicEndpoint).replace(/\/+$/, ''),
    cacheDirectory: path(value('HF_HUB_CACHE', 'HUGGINGFACE_HUB_CACHE') ?? join(home, 'hub')),
    token: isTrue('HF_HUB_DISABLE_IMPLICIT_TOKEN') ? undefined : (value('HF_TOKEN', 'HUGGING_FACE_HUB_TOKEN') ?? readToken(path(value('HF_TOKEN_PATH') ?? join(home, 'token')))),
    offline: isTrue('HF_HUB_OFFLINE') || isTrue('TRANSFORMERS_OFFLINE'),
  };
}

function readToken(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8').trim() || undefined;
  } catch {
    return undefined; // nobody has logged in here
  }
}
