import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { Nvrtc } from '../../engine/cuda/nvrtc.js';

const VERSION = '13.0.88';

/** NVRTC of this machine, else of PyPI's wheel in the cache; a reason where there is neither. It needs no GPU. */
export function findNvrtc(): Nvrtc | { missing: string } {
  try {
    return new Nvrtc();
  } catch {
    // Not installed: the wheel is next.
  }
  const folder = resolve(process.env.TEMPER_CACHE ?? '.temper/cache', `nvrtc-${VERSION}`);
  const library = join(folder, 'nvidia/cu13/lib/libnvrtc.so.13');
  try {
    if (!existsSync(library)) {
      mkdirSync(folder, { recursive: true });
      execFileSync('python3', ['-m', 'pip', 'download', '--quiet', '--no-deps', '--dest', folder, `nvidia-cuda-nvrtc==${VERSION}`], { stdio: 'pipe' });
      const wheel = readdirSync(folder).find((name) => name.endsWith('.whl'))!;
      execFileSync('python3', ['-m', 'zipfile', '-e', join(folder, wheel), folder], { stdio: 'pipe' });
    }
    return new Nvrtc({ nvrtc: library });
  } catch (error) {
    return { missing: `NVRTC is neither installed nor to be had from PyPI: ${(error instanceof Error ? error.message : String(error)).split('\n')[0]}` };
  }
}
