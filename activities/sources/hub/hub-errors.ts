import { SourceError } from '../source-error.js';
import type { HubSettings } from './hub-settings.js';
import { describeRepository, type HubUri } from './hub-uri.js';

/** The hub does not answer, or answers that it is in trouble. Asking again later may help. */
export class HubUnreachableError extends Error {
  readonly code = 'hub_unreachable';
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'HubUnreachableError';
  }
}

/** The request could not be sent, or was cut off. */
export function unreachable(settings: HubSettings, cause: unknown): HubUnreachableError {
  const reason = (cause as { cause?: { code?: string; message?: string } }).cause;
  return new HubUnreachableError(
    `${settings.endpoint}: expected an answer, got ${reason?.code ?? reason?.message ?? (cause as Error).message}; `
    + 'is the network up, and is HF_ENDPOINT right? HF_HUB_OFFLINE=1 uses what has been fetched before',
    { cause },
  );
}

/** What an answer other than success means, and what the user can do about it. `path` is the file that was asked for, if one was. */
export async function refusal(response: Response, { endpoint, token }: HubSettings, uri: Pick<HubUri, 'kind' | 'name' | 'revision'>, path?: string): Promise<Error> {
  const code = response.headers.get('x-error-code') ?? '';
  const said = await wordsOf(response);
  const { status } = response;
  const page = `${endpoint}/${uri.kind === 'dataset' ? 'datasets/' : ''}${uri.name}`;
  const what = `the ${uri.kind} ${uri.name}`;
  const login = `set HF_TOKEN or run \`hf auth login\``;

  if (code === 'GatedRepo' || (status === 403 && /gated|restricted|awaiting|access/i.test(said))) {
    return new SourceError(token === undefined
      ? `${what} is gated: ask for access at ${page}, then ${login}`
      : `${what} is gated, and this token's account has no access to it: ask for it at ${page}, and see that the token may read gated repositories`);
  }
  if (code === 'RevisionNotFound') return new SourceError(`expected a branch, tag or commit of ${uri.name}, got '${uri.revision ?? 'main'}'; ${page}/tree/main lists them`);
  if (code === 'EntryNotFound') return new SourceError(`expected a file ${path ?? ''} in ${describeRepository(uri)}, got none; see ${page}/tree/${uri.revision ?? 'main'}`);
  if (status === 401 && token !== undefined && code !== 'RepoNotFound') {
    return new SourceError(`${endpoint} refuses the token: ${said}; ${login} with a valid one (${endpoint}/settings/tokens)`);
  }
  if (code === 'RepoNotFound' || status === 404 || status === 401) {
    return new SourceError(`expected a ${uri.kind} ${uri.name} at ${endpoint}, got none${token === undefined
      ? `; check its name, and if it is private, ${login}`
      : ' that this token may see; check its name, and that the token may read it'}`);
  }
  if (status === 429 || status >= 500) return new HubUnreachableError(`${endpoint}: expected ${what}, got status ${status}: ${said}`);
  return new SourceError(`${endpoint} refuses ${what} with status ${status}: ${said}`);
}

async function wordsOf(response: Response): Promise<string> {
  const body = await response.text().catch(() => '');
  const header = response.headers.get('x-error-message');
  if (header) return header;
  try {
    return (JSON.parse(body) as { error?: string }).error ?? response.statusText;
  } catch {
    return response.statusText || 'no reason';
  }
}
