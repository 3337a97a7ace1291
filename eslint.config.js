import { createTypeScriptImportResolver } from 'eslint-import-resolver-typescript';
import importX from 'eslint-plugin-import-x';
import tseslint from 'typescript-eslint';

/** Folders import in one direction only; see docs/architecture.md. */
const layers = [
  { folder: 'contracts', may: [] },
  { folder: 'engine/formats', may: ['engine/errors.ts'] },
  { folder: 'engine/quant', may: ['engine/errors.ts'] },
  { folder: 'engine/random', may: [] },
  { folder: 'engine/tensor', may: ['engine/errors.ts', 'engine/random', 'engine/quant'] },
  { folder: 'engine/cuda', may: ['engine/errors.ts', 'engine/random', 'engine/tensor', 'engine/quant'] },
  { folder: 'engine/model', may: ['engine/errors.ts', 'engine/random', 'engine/tensor', 'engine/quant', 'engine/formats'] },
  { folder: 'engine/data', may: ['engine/errors.ts', 'engine/random', 'engine/formats'] },
  { folder: 'engine/train', may: ['engine/errors.ts', 'engine/random', 'engine/model', 'engine/data', 'engine/tensor', 'engine/formats', 'engine/quant', 'contracts'] },
  { folder: 'store', may: ['contracts'] },
  { folder: 'activities', may: ['contracts', 'store', 'engine/errors.ts', 'engine/random', 'engine/formats', 'engine/data', 'infra/tools'] },
  { folder: 'workflows', may: ['contracts', 'activities'] },
  { folder: 'workers', may: ['contracts', 'store', 'activities', 'engine', 'temporal.config.ts'] },
  { folder: 'infra', may: ['contracts', 'store', 'temporal.config.ts'] },
  { folder: 'cli', may: ['contracts', 'store', 'infra', 'workers', 'temporal.config.ts'] },
];

export default tseslint.config(
  { ignores: ['node_modules', '.temper', 'dist'] },
  ...tseslint.configs.recommended,
  {
    files: ['**/*.ts'],
    plugins: { 'import-x': importX },
    languageOptions: { parserOptions: { projectService: true } },
    settings: { 'import-x/resolver-next': [createTypeScriptImportResolver()] },
    rules: {
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/no-floating-promises': 'error',
      '@typescript-eslint/no-misused-promises': 'error',
      'import-x/no-cycle': 'error',
      'import-x/no-default-export': 'error',
      'import-x/no-restricted-paths': [
        'error',
        {
          zones: layers.map(({ folder, may }) => ({
            target: `./${folder}`,
            from: './',
            except: [folder, 'node_modules', 'package.json', ...may].map((path) => `./${path}`),
            message: `${folder}/ may import ${may.length ? may.join(', ') : 'nothing of ours'}`,
          })),
        },
      ],
    },
  },
  { files: ['*.config.ts'], rules: { 'import-x/no-default-export': 'off' } },
  {
    files: ['workflows/**/*.ts'],
    rules: {
      // Activities are types to a workflow: their code must not reach the sandboxed bundle.
      'no-restricted-imports': ['error', { patterns: [{ group: ['node:*'], message: 'workflow code runs in a sandbox' }] }],
      '@typescript-eslint/no-restricted-imports': ['error', { patterns: [{ group: ['**/activities/*'], allowTypeImports: true, message: 'import types only' }] }],
    },
  },
);
