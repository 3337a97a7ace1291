/** A hub on this machine: the part of the Hugging Face hub's HTTP API that clients fetch models and datasets by. */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join, relative, sep } from 'node:path';
import { answerUpload, receiveUpload, type HubAccount, type Uploads } from './hub-upload.js';

export interface HubOptions {
  /** `owner/name` → a directory whose files are the repository's main branch. */
  models?: Readonly<Record<string, string>>;
  datasets?: Readonly<Record<string, string>>;
  /** `owner/name` → branch or tag → directory. */
  revisions?: Readonly<Record<string, Readonly<Record<string, string>>>>;
  /** Repositories that only this token may see. */
  private?: readonly string[];
  /** Repositories whose files only `token` may have. */
  gated?: readonly string[];
  token?: string;
  /** Whose token it is; without one nothing can be written. */
  account?: HubAccount;
}

export interface Hub {
  /** For HF_ENDPOINT. */
  endpoint: string;
  /** "GET /path" of each request, in order; requests for bytes from some position on end in their range. */
  requests: string[];
  /** The commit that a repository's branch or tag points to. @param revision @default main */
  commit(name: string, revision?: string): string;
  /** A repository's files by their paths, of a branch or tag. @param revision @default main */
  files(name: string, revision?: string): Map<string, Buffer>;
  /** Commits that a repository has on all its branches. */
  commits(name: string): number;
  /** What a repository that was made shall be. */
  visibility(name: string): string | undefined;
  /** Breaks answers with a file's bytes: once for each entry, in order. `after`: the connection ends after that many bytes; `damage`: its first byte is another. `wait`: they are sent when this has ended. */
  faults: { path: string; after?: number; damage?: true; status?: number; wait?: () => Promise<void> }[];
  close(): Promise<void>;
}

export interface RepositoryFile { path: string; bytes: Buffer; oid: string; lfs?: string }
export interface Repository { kind: 'model' | 'dataset'; name: string; commits: Map<string, RepositoryFile[]>; revisions: Map<string, string>; visibility?: string }

/** Files that one answer lists. */
const pageSize = 1000;

/** What the hub's .gitattributes hand to LFS, by their names. */
export const isLarge = (path: string) => /\.(safetensors|bin|gguf|parquet|gz|zst|bz2|model|zip)$/.test(path);
const digest = (algorithm: string, ...parts: (string | Buffer)[]) => parts.reduce((hash, part) => hash.update(part), createHash(algorithm)).digest('hex');

export async function startHub(options: HubOptions): Promise<Hub> {
  const repositories = [
    ...Object.entries(options.models ?? {}).map(([name, directory]) => repository('model', name, directory, options)),
    ...Object.entries(options.datasets ?? {}).map(([name, directory]) => repository('dataset', name, directory, options)),
  ];
  const requests: string[] = [];
  const faults: Hub['faults'] = [];
  const uploads: Uploads = new Map();
  const note = ({ method, url, headers: { range } }: IncomingMessage) =>
    requests.push(`${method} ${decodeURIComponent(url!.split('?')[0])}${range === undefined ? '' : ` ${range}`}`);
  // Large files come from another host, which refuses a request that brings the hub's token.
  const cdn = createServer((request, response) => {
    note(request);
    if (receiveUpload(request, response, uploads)) return;
    const file = repositories.flatMap(({ commits }) => [...commits.values()].flat()).find(({ lfs }) => lfs === request.url!.slice('/lfs/'.length));
    if (!file || request.headers.authorization !== undefined) response.writeHead(400).end();
    else sendFile(request, response, file, { etag: `"${file.lfs}"` }, faults);
  });
  const cdnAddress = await listen(cdn);
  const served: Served = { repositories, options, faults, cdnAddress, endpoint: '', uploads };
  const hub = createServer((request, response) => {
    note(request);
    if (!answerUpload(request, response, served)) answer(request, response, served);
  });
  served.endpoint = await listen(hub);
  const find = (name: string) => repositories.find((candidate) => candidate.name === name)!;
  return {
    endpoint: served.endpoint,
    requests,
    faults,
    commit: (name, revision = 'main') => find(name).revisions.get(revision)!,
    files: (name, revision = 'main') => new Map(find(name).commits.get(find(name).revisions.get(revision)!)!.map(({ path, bytes }) => [path, bytes])),
    commits: (name) => find(name).commits.size,
    visibility: (name) => find(name).visibility,
    async close() {
      await Promise.all([hub, cdn].map(async (server) => {
        const closed = once(server, 'close');
        server.close();
        server.closeAllConnections();
        await closed;
      }));
    },
  };
}

async function listen(server: Server): Promise<string> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

function repository(kind: Repository['kind'], name: string, directory: string, { revisions = {} }: HubOptions): Repository {
  const made: Repository = { kind, name, commits: new Map(), revisions: new Map() };
  for (const [revision, from] of Object.entries({ main: directory, ...revisions[name] })) {
    const entries = readdirSync(from, { withFileTypes: true, recursive: true }).filter((entry) => !entry.isDirectory());
    const files = entries
      .map((entry) => repositoryFile(relative(from, join(entry.parentPath, entry.name)).split(sep).join('/'), readFileSync(join(entry.parentPath, entry.name))))
      .sort((a, b) => (a.path < b.path ? -1 : 1));
    madeCommit(made, revision, files);
  }
  return made;
}

/** A file as git has it: a large one as a pointer. */
export function repositoryFile(path: string, bytes: Buffer): RepositoryFile {
  const lfs = isLarge(path) ? digest('sha256', bytes) : undefined;
  const stored = lfs === undefined ? bytes : Buffer.from(`version https://git-lfs.github.com/spec/v1\noid sha256:${lfs}\nsize ${bytes.length}\n`);
  return { path, bytes, lfs, oid: digest('sha1', `blob ${stored.length}\0`, stored) };
}

/** Adds a commit of these files and moves a branch to it. @returns its oid */
export function madeCommit({ kind, name, commits, revisions }: Repository, revision: string, files: RepositoryFile[], words = ''): string {
  const commit = digest('sha1', JSON.stringify([kind, name, files.map(({ path, oid }) => [path, oid])]), words);
  commits.set(commit, files);
  revisions.set(revision, commit);
  return commit;
}

export interface Served { repositories: Repository[]; options: HubOptions; faults: Hub['faults']; cdnAddress: string; endpoint: string; uploads: Uploads }

function answer(request: IncomingMessage, response: ServerResponse, served: Served): void {
  const url = new URL(request.url!, 'http://hub');
  const path = url.pathname;
  const api = /^\/api\/(model|dataset)s\/([^/]+\/[^/]+)\/(revision|tree|paths-info|refs)(?:\/([^/]+))?(?:\/(.*))?$/.exec(path);
  const resolve = /^\/(datasets\/)?([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(path);
  const kind = api ? (api[1] as Repository['kind']) : resolve?.[1] ? 'dataset' : 'model';
  const name = decodeURIComponent(api?.[2] ?? resolve?.[2] ?? '');
  const found = served.repositories.find((candidate) => candidate.kind === kind && candidate.name === name);
  const { token } = served.options;
  const authorized = token !== undefined && request.headers.authorization === `Bearer ${token}`;
  if (request.headers.authorization !== undefined && !authorized) return fail(response, 401, '', 'Invalid credentials in Authorization header');
  if (!found || (served.options.private?.includes(name) && !authorized)) return fail(response, authorized ? 404 : 401, 'RepoNotFound', 'Repository not found');

  const revision = decodeURIComponent(api?.[4] ?? resolve?.[3] ?? '');
  const commit = found.commits.has(revision) ? revision : found.revisions.get(revision === 'HEAD' ? 'main' : revision);
  if (commit === undefined) return fail(response, 404, 'RevisionNotFound', `Invalid rev id: ${revision}`);
  const files = found.commits.get(commit)!;
  const gated = served.options.gated?.includes(name) ?? false;

  if (resolve) {
    const wanted = decodeURIComponent(resolve[4]);
    const file = files.find((candidate) => candidate.path === wanted);
    if (gated && !authorized) return fail(response, 401, 'GatedRepo', `Access to ${kind} ${name} is restricted. You must have access to it and be authenticated to access it.`);
    if (!file) return fail(response, 404, 'EntryNotFound', 'Entry not found', { 'x-repo-commit': commit });
    const headers = { 'x-repo-commit': commit, etag: `"${file.lfs ?? file.oid}"` };
    if (file.lfs === undefined) return sendFile(request, response, file, headers, served.faults);
    response.writeHead(302, { ...headers, 'x-linked-etag': `"${file.lfs}"`, 'x-linked-size': String(file.bytes.length), location: `${served.cdnAddress}/lfs/${file.lfs}` }).end();
    return;
  }
  const entries = treeEntries(files);
  if (api![3] === 'revision') return json(response, { _id: commit.slice(0, 24), id: name, modelId: name, sha: commit, private: served.options.private?.includes(name) ?? false, gated: gated && 'auto', disabled: false, downloads: 0, likes: 0, tags: [], lastModified: '2026-01-01T00:00:00.000Z', createdAt: '2026-01-01T00:00:00.000Z', author: name.split('/')[0], siblings: files.map((file) => ({ rfilename: file.path })) });
  if (api![3] === 'tree') {
    const folder = api![5] === undefined ? '' : `${decodeURIComponent(api![5])}/`;
    const recursive = /^true$/i.test(url.searchParams.get('recursive') ?? '');
    const listed = entries.filter(({ path: name }) => name.startsWith(folder) && (recursive || !name.slice(folder.length).includes('/')));
    if (listed.length === 0) return fail(response, 404, 'EntryNotFound', `${folder} does not exist on "${revision}"`);
    const start = Number(url.searchParams.get('cursor') ?? 0);
    const next = new URL(`${url.pathname}${url.search}`, `http://${request.headers.host}`);
    next.searchParams.set('cursor', String(start + pageSize));
    if (start + pageSize < listed.length) response.setHeader('link', `<${next.href}>; rel="next"`);
    return json(response, listed.slice(start, start + pageSize));
  }
  let body = '';
  request.on('data', (chunk: Buffer) => (body += chunk.toString())).on('end', () => {
    // JavaScript's client sends JSON, Python's a form.
    const form = request.headers['content-type']?.startsWith('application/x-www-form-urlencoded');
    const paths = form ? new URLSearchParams(body).getAll('paths') : (JSON.parse(body) as { paths: string[] }).paths;
    json(response, entries.filter((entry) => paths.includes(entry.path)));
  });
}

const treeEntry = ({ path, bytes, oid, lfs }: RepositoryFile) => ({
  type: 'file', oid, size: bytes.length, path, ...(lfs === undefined ? {} : { lfs: { oid: lfs, size: bytes.length, pointerSize: 132 } }),
});

/** Files and the folders that they are in. */
function treeEntries(files: readonly RepositoryFile[]): ({ type: string; path: string } & object)[] {
  const folders = new Set(files.flatMap(({ path }) => path.split('/').slice(0, -1).map((_, i, parts) => parts.slice(0, i + 1).join('/'))));
  return [...files.map(treeEntry), ...[...folders].map((path) => ({ type: 'directory', oid: digest('sha1', path), size: 0, path }))].sort((a, b) => (a.path < b.path ? -1 : 1));
}

/** Whole, or from where the range header says. */
function sendFile({ method, headers: { range } }: IncomingMessage, response: ServerResponse, file: RepositoryFile, headers: Record<string, string>, faults: Hub['faults']): void {
  const [, from, to] = /^bytes=(\d+)-(\d*)$/.exec(range ?? '') ?? [];
  const start = Number(from ?? 0);
  const end = to ? Math.min(Number(to) + 1, file.bytes.length) : file.bytes.length;
  const common = { ...headers, 'accept-ranges': 'bytes', 'content-type': 'application/octet-stream' };
  if (from !== undefined && start >= file.bytes.length) {
    response.writeHead(416, { ...common, 'content-range': `bytes */${file.bytes.length}` }).end();
    return;
  }
  const fault = method === 'GET' ? faults.findIndex(({ path }) => path === file.path) : -1;
  const { after, damage, status, wait } = fault === -1 ? {} : faults.splice(fault, 1)[0];
  if (status !== undefined) return fail(response, status, '', 'Internal Error');
  const body = Buffer.from(file.bytes.subarray(start, end));
  if (damage) body[0] ^= 1;
  response.writeHead(from === undefined ? 200 : 206, {
    ...common, 'content-length': String(body.length), ...(from === undefined ? {} : { 'content-range': `bytes ${start}-${end - 1}/${file.bytes.length}` }),
  });
  if (method === 'HEAD') response.end();
  else if (wait) void wait().then(() => response.end(body));
  else if (after === undefined) response.end(body);
  else response.write(body.subarray(0, after), () => setTimeout(() => response.destroy(), 50));
}

export function json(response: ServerResponse, value: unknown): void {
  response.writeHead(200, { 'content-type': 'application/json; charset=utf-8' }).end(JSON.stringify(value));
}

export function fail(response: ServerResponse, status: number, code: string, message: string, headers: Record<string, string> = {}): void {
  response.writeHead(status, { 'content-type': 'application/json; charset=utf-8', ...(code ? { 'x-error-code': code } : {}), 'x-error-message': message, ...headers }).end(JSON.stringify({ error: message }));
}
