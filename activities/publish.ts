import type { NamedArtifact } from '../contracts/artifact.js';
import { InvalidInputError } from '../contracts/errors.js';
import { publishInputSchema, publishOutputSchema, type PublishInput, type PublishOutput } from '../contracts/stages.js';
import { openStore } from '../store/open-store.js';
import type { S3Options } from '../store/s3-store.js';
import { publishToHub } from './publish-to-hub.js';
import { publishToStore } from './publish-to-store.js';
import { hubSettings, type HubSettings } from './sources/hub/hub-settings.js';
import { defineStage, type Stage } from './stage.js';

/**
 * Publishes a run's files where its configuration says. Doing it again writes nothing.
 * @param s3 where `s3:` is; by default the environment's
 * @param hub how the hub is reached; by default as the environment says
 */
export const createPublishStage = (s3?: S3Options, hub?: HubSettings): Stage<PublishInput, PublishOutput> => defineStage<PublishInput, PublishOutput>({
  name: 'publish',
  version: 1,
  input: publishInputSchema,
  output: publishOutputSchema,
  reusable: false, // what is at the destination may have changed
  async run({ uri, hub: target, name, files }, context) {
    refuseDuplicates(files);
    const stored = uri === undefined ? {} : await publishToStore(openStore(uri, { s3 }), name, files, context);
    return { ...stored, ...(target && { hub: await publishToHub(target, name, files, hub ?? hubSettings(), context) }) };
  },
});

export const publishStage = createPublishStage();

function refuseDuplicates(files: readonly NamedArtifact[]): void {
  const names = files.map(({ name }) => name);
  const problems = names.flatMap((name, i) => (names.indexOf(name) < i ? [{ path: `publish.files[${i}]`, message: `expected every name once, got '${name}' twice` }] : []));
  if (problems.length > 0) throw new InvalidInputError(problems);
}
