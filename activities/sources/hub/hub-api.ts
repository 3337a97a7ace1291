import { setTimeout as sleep } from 'node:timers/promises';
import { datasetInfo, listFiles, modelInfo, pathsInfo } from '@huggingface/hub';
import { SourceError } from '../source-error.js';
import { HubUnreachableError, refusal, unreachable } from './hub-errors.js';
import type { HubSettings } from './hub-settings.js';
import type { HubRepositoryId } from './hub-uri.js';

/** A file of one commit. */
export interface HubFile {
  /** In the repository. */
  path: string;
  bytes: number;
  /** sha256 of a large file (64 hex digits), or git's sha1 of a small one (40): the name of its blob in the cache. */
  etag: string;
}

type Fetch = typeof fetch;

/** A request is tried this many times in all, the waits between them doubling from half a second. */
const attempts = 4;

/** Asks the hub. Every failure says what to do: a SourceError when the input is wrong, a HubUnreachableError when later may help. */
export class HubApi {
  constructor(readonly settings: HubSettings) {}

  /** The commit that a branch or tag points to now. @default the main branch */
  async resolve(id: HubRepositoryId, revision = 'main'): Promise<string> {
    const request = { name: id.name, revision, ...this.#with(id, revision) };
    const { sha } = id.kind === 'model' ? await modelInfo({ ...request, additionalFields: ['sha'] }) : await datasetInfo({ ...request, additionalFields: ['sha'] });
    return sha;
  }

  /** Every file of a commit. */
  async list(id: HubRepositoryId, commit: string): Promise<HubFile[]> {
    const files: HubFile[] = [];
    for await (const entry of listFiles({ repo: { type: id.kind, name: id.name }, recursive: true, revision: commit, ...this.#with(id, commit) })) {
      if (entry.type === 'file') files.push(hubFile(entry));
    }
    return files;
  }

  /** One file of a commit. @throws SourceError when there is none */
  async file(id: HubRepositoryId, commit: string, path: string): Promise<HubFile> {
    const found = await pathsInfo({ repo: { type: id.kind, name: id.name }, paths: [path], revision: commit, ...this.#with(id, commit, path) });
    const entry = found.find((candidate) => candidate.path === path && candidate.type === 'file');
    if (!entry) throw new SourceError(`expected a file ${path} in ${id.name}@${commit}, got none`);
    return hubFile(entry);
  }

  /** A file's bytes from `start` on: status 206, or 200 with all of them where the server knows no ranges. Not tried again. */
  async content(id: HubRepositoryId, commit: string, path: string, start: number): Promise<Response> {
    // `identity`: a compressed answer has other byte positions.
    const headers = { 'accept-encoding': 'identity', ...(start > 0 ? { range: `bytes=${start}-` } : {}) };
    const response = await this.#send(this.#contentUrl(id, commit, path), { headers });
    if (!response.ok && response.status !== 416) throw await refusal(response, this.settings, { ...id, revision: commit }, path);
    return response;
  }

  /** Whether a file's bytes may be had, without fetching them: the list of a gated repository's files is open to all. @throws SourceError when not */
  async requireAccess(id: HubRepositoryId, commit: string, path: string): Promise<void> {
    const url = this.#contentUrl(id, commit, path);
    await this.#ask(url, { method: 'HEAD', redirect: 'manual' }, (response) => refusal(response, this.settings, { ...id, revision: commit }, path));
  }

  #contentUrl({ kind, name }: HubRepositoryId, commit: string, path: string): string {
    return `${this.settings.endpoint}/${kind === 'dataset' ? 'datasets/' : ''}${name}/resolve/${commit}/${path.split('/').map(encodeURIComponent).join('/')}`;
  }

  #with(id: HubRepositoryId, revision: string, path?: string): { hubUrl: string; fetch: Fetch } {
    return { hubUrl: this.settings.endpoint, fetch: (url, init) => this.#ask(String(url), init, async (response) => refusal(response, this.settings, { ...id, revision }, path)) };
  }

  async #ask(url: string, init: RequestInit | undefined, explain: (response: Response) => Promise<Error>): Promise<Response> {
    for (let attempt = 1; ; attempt++) {
      try {
        const response = await this.#send(url, init);
        if (response.status < 400) return response;
        throw await explain(response);
      } catch (error) {
        if (!(error instanceof HubUnreachableError) || attempt === attempts) throw error;
        await sleep(250 * 2 ** attempt);
      }
    }
  }

  /** The token goes to the endpoint alone; `fetch` drops it from redirects to elsewhere. */
  async #send(url: string, init: RequestInit = {}): Promise<Response> {
    const { endpoint, token } = this.settings;
    const headers = new Headers(init.headers);
    headers.set('user-agent', 'temper');
    if (token !== undefined && new URL(url).origin === new URL(endpoint).origin) headers.set('authorization', `Bearer ${token}`);
    try {
      return await fetch(url, { ...init, headers });
    } catch (error) {
      throw unreachable(this.settings, error);
    }
  }
}

function hubFile({ path, size, oid, lfs }: { path: string; size: number; oid?: string; lfs?: { oid: string; size: number } }): HubFile {
  return { path, bytes: lfs?.size ?? size, etag: lfs?.oid ?? oid! };
}
