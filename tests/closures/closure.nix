# One derivation per Debian package of `lock`, and a top that holds them all.
# No nixpkgs: the builders are the machine's own python3 and dpkg-deb, which the
# chroot store's sandbox shows at their usual places, with the packages in /debs.
{ lock, variant, salt }:
let
  packages = builtins.fromJSON (builtins.readFile lock);

  run = script: attrs: derivation ({
    system = "x86_64-linux";
    builder = "/usr/bin/python3";
    args = [ (builtins.toFile (baseNameOf script) (builtins.readFile script)) ];
    PATH = "/usr/bin:/bin";
  } // attrs);

  built = builtins.mapAttrs
    (name: package: run ./unpack.py {
      inherit (package) name;
      inherit (package) file sha256;
      package = name;
      deps = map (dep: built.${dep}) package.deps;
      # The one change that a rebuild starts from. All else follows from it.
      salt = if name == "libc6" then salt else "";
    })
    packages;

  all = builtins.attrValues built;
in
{
  # Everything, linked together in one tree.
  top = run ./farm.py { name = "system-${variant}"; deps = all; };

  # The same, and beside it one path with a single very large file.
  topWithBundle = run ./farm.py {
    name = "system-${variant}";
    deps = all ++ [ (run ./bundle.py { name = "bundle-${variant}"; deps = all; bytes = "320000000"; }) ];
  };
}
