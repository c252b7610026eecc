// Builds everything that is served or published into dist: viewer, element and publisher as modules, their workers, one
// file for plain pages, and the pages of the appliance.

import { copyFile, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';

import { build, transform } from 'esbuild';

const root = path.join(import.meta.dirname, '..');
const src = (name) => path.join(root, 'src', name);
const dist = (name) => path.join(root, 'dist', name);

await rm(dist(''), { recursive: true, force: true });
await mkdir(dist(''), { recursive: true });

const common = {
  bundle: true,
  minify: true,
  target: 'es2022',
  charset: 'utf8',
  legalComments: 'none',
  loader: { '.css': 'text' },
  logLevel: 'warning',
};
/** Style sheets inside scripts are minified too. */
const styles = {
  name: 'styles',
  setup({ onLoad }) {
    onLoad({ filter: /\.css$/ }, async ({ path: file }) => {
      const { code } = await transform(await readFile(file, 'utf8'), { loader: 'css', minify: true, target: 'es2022' });
      return { contents: code, loader: 'text' };
    });
  },
};
const module = { ...common, plugins: [styles], format: 'esm', define: { __WEIR_SCRIPT_URL__: 'import.meta.url' } };

await Promise.all([
  build({ ...module, entryPoints: [src('index.ts')], outfile: dist('player.js') }),
  build({ ...module, entryPoints: [src('worker.ts')], outfile: dist('worker.js') }),
  build({ ...module, entryPoints: [src('publish.ts')], outfile: dist('publish.js') }),
  build({ ...module, entryPoints: [src('publish-worker.ts')], outfile: dist('publish-worker.js') }),
  build({ ...module, entryPoints: [src('element.ts')], outfile: dist('element.js') }),
  // The pages share the element's file.
  build({
    ...module,
    entryPoints: {
      console: src('pages/console.ts'),
      golive: src('pages/golive.ts'),
      start: src('pages/start.ts'),
      watch: src('pages/watch.ts'),
    },
    outdir: dist(''),
    plugins: [
      styles,
      {
        name: 'element and publisher are served beside',
        setup({ onResolve }) {
          onResolve({ filter: /\.\.\/element\.js$/ }, () => ({ path: './element.js', external: true }));
          onResolve({ filter: /\.\.\/publish\.js$/ }, () => ({ path: './publish.js', external: true }));
        },
      },
    ],
  }),
  // For pages without modules: <script src="weir-player.js"></script>.
  build({
    ...common,
    plugins: [styles],
    format: 'iife',
    globalName: 'Weir',
    entryPoints: [src('element.ts')],
    outfile: dist('weir-player.js'),
    define: { __WEIR_SCRIPT_URL__: '__weirScript' },
    banner: { js: 'var __weirScript=document.currentScript?.src??location.href;' },
  }),
]);

const css = [await readFile(src('element/tokens.css'), 'utf8'), await readFile(src('pages/page.css'), 'utf8')].join('\n');
const { code } = await transform(css, { loader: 'css', minify: true, target: 'es2022' });
await writeFile(dist('page.css'), code);
for (const name of ['console.html', 'golive.html', 'index.html', 'watch.html', 'favicon.svg']) await copyFile(src(`pages/${name}`), dist(name));
