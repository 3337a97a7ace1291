import { mkdirSync, writeFileSync } from 'node:fs';
import { afterAll, describe, expect, it } from 'vitest';
import { compileOptions } from '../../engine/cuda/device.js';
import { Nvrtc } from '../../engine/cuda/nvrtc.js';
import { prelude } from '../../engine/cuda/prelude.cu.js';
import { catalogue } from '../kit/cuda-catalogue.js';
import { findNvrtc } from '../kit/nvrtc.js';

const architectures = ['sm_80', 'sm_86', 'sm_89', 'sm_90a', 'sm_100', 'sm_120'];
/** What a kernel may spill before it counts as a mistake. */
const SPILL_LIMIT = 64;

const nvrtc = findNvrtc();
const name = 'CUDA kernels compile';

if (nvrtc instanceof Nvrtc) {
  describe(`${name} (NVRTC ${nvrtc.version})`, () => {
    const report: string[] = [];
    afterAll(() => {
      mkdirSync('.temper', { recursive: true });
      writeFileSync('.temper/cuda-kernels.md', `| kernel | architecture | registers | spilled bytes |\n|---|---|---|---|\n${report.join('\n')}\n`);
    });
    for (const architecture of architectures) {
      const supported = nvrtc.architectures().includes(Number(/\d+/.exec(architecture)![0]));
      it.skipIf(!supported)(`for ${architecture}, without warnings and without spilling registers`, { timeout: 300_000 }, () => {
        const problems: string[] = [];
        for (const program of catalogue().filter((program) => (program.architecture ?? architecture) === architecture)) {
          const { log } = nvrtc.compile(prelude + program.source(), `${program.key}.cu`, [...compileOptions(architecture), '--ptxas-options=-v']);
          const registers = /Used (\d+) registers/.exec(log)?.[1];
          const spilled = Number(/(\d+) bytes spill stores/.exec(log)?.[1] ?? 0);
          report.push(`| ${program.key} | ${architecture} | ${registers} | ${spilled} |`);
          if (/warning|Potential Performance Loss/.test(log) || spilled > SPILL_LIMIT) problems.push(`${program.key}: ${log}`);
        }
        expect(problems).toEqual([]);
      });
    }
    it('and a mistake is shown with the kernel and the line', () => {
      expect(() => nvrtc.compile('extern "C" __global__ void f() {\n  int x = y;\n}', 'broken.cu', compileOptions('sm_90'))).toThrow(/broken\.cu\(2\): error: identifier "y" is undefined/);
    });
  });
} else {
  describe.skip(`${name} (${nvrtc.missing})`, () => it('skipped', () => undefined));
}
