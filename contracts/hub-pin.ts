/** One file of one commit on the Hugging Face hub. */
export interface HubPin {
  /** `hf://owner/name`, or `hf://datasets/owner/name`. */
  repository: string;
  commit: string;
}

/** The repository and commit behind an artifact's URI; undefined for one that is not on the hub. */
export function hubPin(uri: string): HubPin | undefined {
  const [, kind, name, commit] = /^hf:\/\/(models|datasets)\/([^@]+)@([0-9a-f]{40})\//.exec(uri) ?? [];
  return commit === undefined ? undefined : { repository: `hf://${kind === 'datasets' ? 'datasets/' : ''}${name}`, commit };
}

/** Where files come from: the commits on the hub that they were taken at, or what the user named where none is on the hub. */
export function describeOrigin(named: string | readonly string[], files: readonly { uri: string }[]): string {
  const pins = files.map(({ uri }) => hubPin(uri)).filter((pin) => pin !== undefined).map(({ repository, commit }) => `${repository} at commit ${commit}`);
  return [...new Set(pins.length > 0 ? pins : [named].flat())].join(', ');
}

/** What Python's loaders call a base model: a repository on the hub by its name and commit, anything else as the user named it. */
export function baseReference({ uri, hubName, files }: { uri: string; hubName?: string; files: readonly { uri: string }[] }): { name: string; revision?: string } {
  const pin = hubPin(files[0]?.uri ?? '');
  return pin ? { name: pin.repository.slice('hf://'.length), revision: pin.commit } : { name: hubName ?? uri };
}
