# As much of nixpkgs' packages and NixOS' utils as nix/ uses. A package is a name with a path.
{ lib }:
let
  package = name: {
    type = "derivation";
    inherit name;
    outPath = "/nix/store/00000000000000000000000000000000-${name}";
  };
  scalar = builtins.foldl' lib.types.either lib.types.str [
    lib.types.bool
    lib.types.int
  ];

  pkgs = lib.genAttrs [
    "cargo-deny"
    "cargo-nextest"
    "clippy"
    "coreutils"
    "figlet"
    "fuse3"
    "hello"
    "installShellFiles"
    "nixfmt-tree"
    "rustfmt"
    "util-linux"
  ] package // {
    inherit lib pkgs;
    pkgsStatic.busybox = package "busybox";
    stdenv = rec {
      hostPlatform.system = "x86_64-linux";
      buildPlatform.canExecute = platform: platform == hostPlatform;
    };
    writeText = name: text: package name // { inherit text; };
    mkShell = { inputsFrom, packages }: builtins.deepSeq (map toString (inputsFrom ++ packages)) (package "shell");
    callPackage =
      file: arguments:
      let
        f = import file;
      in
      f (builtins.intersectAttrs (builtins.functionArgs f) pkgs // arguments);
    rustPlatform.buildRustPackage =
      arguments: package "${arguments.pname}-${arguments.version}" // { inherit arguments; };
    formats.toml = _settings: {
      type = lib.types.attrsOf (
        lib.types.either scalar lib.types.anything
      );
      generate = name: value: package name // { inherit value; };
    };
    # As it is: whoever evaluates it looks into it.
    testers.runNixOSTest = test: test;
  };
in
{
  inherit pkgs;

  utils.escapeSystemdExecArgs =
    arguments:
    lib.concatStringsSep " " (
      map (
        argument:
        builtins.replaceStrings [ "%" "$" ] [ "%%" "$$" ] (builtins.toJSON (toString argument))
      ) arguments
    );
}
