import { goTool } from './go-tool.js';

/** The S3 server of tests and local trials: Versity S3 Gateway (Apache-2.0), with atomic conditional writes and checked checksums. */
export const versityGw = (cacheDirectory: string): Promise<string> =>
  goTool({ name: 'versitygw', module: 'github.com/versity/versitygw/cmd/versitygw', version: 'v1.8.0' }, cacheDirectory);
