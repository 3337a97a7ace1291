import { SourceError } from '../source-error.js';

export type RepositoryKind = 'model' | 'dataset';

/** A repository on the hub. */
export interface HubRepositoryId {
  kind: RepositoryKind;
  /** `owner/name` */
  name: string;
}

/** What a user names by `hf://[models/|datasets/]OWNER/NAME[@REVISION][/PATH]`, the grammar of huggingface_hub. */
export interface HubUri extends HubRepositoryId {
  /** Branch, tag or commit. @default the repository's main branch */
  revision?: string;
  /** A file or folder in the repository; '' for all of it. */
  path: string;
}

export const hubScheme = 'hf://';

/** Refs with a slash of their own; any other slash in a revision is written %2F. */
const specialRef = /^refs\/(?:convert\/[\w.-]+|pr\/\d+)(?=$|\/)/;
const namePart = /^(?!.*(?:--|\.\.))[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?$/;

/**
 * Takes a hub URI apart. Its kind may be left out, as the place in the configuration tells it: model.uri names models,
 * dataset.uri datasets.
 * @throws SourceError
 */
export function parseHubUri(uri: string, kind: RepositoryKind): HubUri {
  const refuse = (got: string): never => {
    throw new SourceError(`expected ${hubScheme}OWNER/NAME[@REVISION][/PATH] of a ${kind}, got ${got}`);
  };
  const [, prefix, rest] = /^hf:\/\/(?:(models|datasets|spaces|kernels|buckets)\/)?(.*)$/.exec(uri) ?? refuse(`'${uri}'`);
  if (prefix !== undefined && prefix !== `${kind}s`) refuse(`one of ${prefix}, '${uri}'`);
  const [, name, at, tail] = /^([^/@]+\/[^/@]+)(@?)(.*)$/.exec(rest) ?? refuse(`'${uri}'`);
  if (!name.split('/').every((part) => namePart.test(part))) refuse(`'${uri}', whose name '${name}' no repository can have`);

  const special = at ? specialRef.exec(tail)?.[0] : undefined;
  const encoded = special ?? (at ? tail.split('/', 1)[0] : undefined);
  if (encoded === '') refuse(`'${uri}', with nothing after @`);
  const path = tail.slice(encoded?.length ?? 0).replace(/^\//, '').replace(/\/$/, '');
  if (path.split('/').some((part) => part === '..' || part === '.') || path.startsWith('/') || path.includes('//')) refuse(`'${uri}', whose path leaves the repository or has an empty part`);
  return { kind, name, revision: encoded === undefined ? undefined : decodeURIComponent(encoded), path };
}

/** Names one file of one commit, for good. */
export const hubFileUri = ({ kind, name }: HubRepositoryId, commit: string, path: string): string => `${hubScheme}${kind}s/${name}@${commit}/${path}`;

/** Takes a URI that `hubFileUri` made apart. */
export function pinnedHubUri(uri: string, kind: RepositoryKind): HubUri & { revision: string } {
  const { revision, ...rest } = parseHubUri(uri, kind);
  if (revision === undefined || rest.path === '') throw new SourceError(`expected one file of one commit, got '${uri}'`);
  return { ...rest, revision };
}

/** `owner/name`, with `@revision` where one is named. */
export const describeRepository = ({ name, revision }: Pick<HubUri, 'name' | 'revision'>): string => `${name}${revision === undefined ? '' : `@${revision}`}`;

export const isCommit = (revision: string): boolean => /^[0-9a-f]{40}$/.test(revision);
