# The modules, evaluated against stubs, and what must hold of the units that come out. Throws with a
# list of what does not hold; otherwise gives what held, and the whole configuration, in which the
# caller looks for what must not be there.
#
#   nix-instantiate --eval --strict --json nix/tests/modules.nix [--argstr spoil NAME]
{
  # A file with a token.
  tokenFile ? "/run/secrets/granary-token",
  # One of `spoilers`: breaks something, and the evaluation has to fail.
  spoil ? "nothing",
}:
let
  lib = import ./stub-lib.nix;
  inherit (import ./stub-pkgs.nix { inherit lib; }) pkgs utils;

  eval =
    modules:
    lib.evalModules {
      modules = [ ./stub-options.nix ] ++ modules;
      specialArgs = { inherit pkgs utils; };
    };

  spoilers = {
    nothing = { };
    undeclared-option.services.granary.mounts.main.cacheSizes = "1G";
    undeclared-unit-key.systemd.services.granary.serviceConfig.ProtectSytem = "strict";
    wrong-type.services.granary.port = "8080";
    no-description.options.services.granary.undescribed = lib.mkOption { type = lib.types.bool; };
    less-hardening.systemd.services.granary.serviceConfig.NoNewPrivileges = lib.mkForce false;
    namespaced-mount.systemd.services.granary-mount-main.serviceConfig.PrivateTmp = true;
    hidden-boot-id.systemd.services.granary.serviceConfig.ProcSubset = "pid";
    token-as-argument.systemd.services.granary-mount-main.serviceConfig.ExecStart =
      lib.mkForce "granary mount --token-file ${tokenFile}";
    token-in-the-configuration.environment.etc.token.text = builtins.readFile tokenFile;
  };

  everything = eval [
    ../modules/server.nix
    ../modules/mount.nix
    {
      services.granary = {
        enable = true;
        listenAddress = "::";
        openFirewall = true;
        maxNarSize = "16GiB";
        settings.tokens = {
          issuer = "https://tokens.example.org";
          hs256_secret_files = [ "/etc/other" ];
        };
        hs256SecretFiles = [ tokenFile ];
        environmentFile = "/run/secrets/granary-environment";
        mounts.main = {
          cache = "https://cache.example.org/100%";
          publicKeys = [
            "main-1:AAAA="
            "main-2:BBBB="
          ];
          inherit tokenFile;
          cacheSize = "20G";
          passthrough = true;
          profiles = false;
          byName = true;
          timeout = 30;
          overlayStore.enable = true;
        };
        mounts.plain = {
          cache = "https://cache.example.org/plain";
          mountPoint = "/srv/plain";
          autoStart = false;
          allowOther = false;
        };
        mounts.off = {
          enable = false;
          cache = "https://cache.example.org/off";
        };
      };
    }
    spoilers.${spoil}
  ];
  inherit (everything) config;
  services = config.systemd.services;
  server = services.granary.serviceConfig;
  mount = services.granary-mount-main.serviceConfig;
  plain = services.granary-mount-plain.serviceConfig;
  overlay = builtins.head config.systemd.mounts;

  # The server alone, with less usual settings.
  other =
    (eval [
      ../modules/server.nix
      {
        services.granary = {
          enable = true;
          port = 80;
          dataDir = "/srv/granary";
        };
      }
    ]).config;
  otherServer = other.systemd.services.granary.serviceConfig;
  nothing =
    (eval [
      ../modules/server.nix
      ../modules/mount.nix
    ]).config;

  # With these settings of a mount, or of the server, is there an answer at all, and do the assertions hold?
  holds =
    modules:
    let
      inherit (eval ([ ../modules/server.nix ../modules/mount.nix ] ++ modules)) config;
      tried = builtins.tryEval (
        builtins.deepSeq (builtins.toJSON config) (lib.all (a: a.assertion) config.assertions)
      );
    in
    tried.success && tried.value;
  withMount = mount: holds [ { services.granary.mounts.x = { cache = "https://a/b"; } // mount; } ];
  withServer = server: holds [ { services.granary = { enable = true; } // server; } ];

  # The same for every unit of ours: none of these costs anything.
  hardened = unit: {
    inherit (unit)
      DevicePolicy
      KeyringMode
      LockPersonality
      MemoryDenyWriteExecute
      NoNewPrivileges
      RestrictNamespaces
      RestrictRealtime
      RestrictSUIDSGID
      SystemCallArchitectures
      Type
      ;
  };
  asItShouldBe = {
    DevicePolicy = "closed";
    KeyringMode = "private";
    LockPersonality = true;
    MemoryDenyWriteExecute = true;
    NoNewPrivileges = true;
    RestrictNamespaces = true;
    RestrictRealtime = true;
    RestrictSUIDSGID = true;
    SystemCallArchitectures = "native";
    Type = "notify";
  };
  # What gives a service a mount namespace of its own.
  namespacing = [
    "DynamicUser"
    "PrivateDevices"
    "PrivateMounts"
    "PrivateTmp"
    "PrivateUsers"
    "ProcSubset"
    "ProtectControlGroups"
    "ProtectHome"
    "ProtectKernelLogs"
    "ProtectKernelModules"
    "ProtectKernelTunables"
    "ProtectProc"
    "ProtectSystem"
    "ReadOnlyPaths"
    "ReadWritePaths"
  ];

  granary = toString config.services.granary.package;
  says = text: part: lib.hasInfix part text;

  flake =
    let
      outputs = (import ../../flake.nix).outputs {
        self = outputs;
        nixpkgs = {
          inherit lib;
          legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (_system: pkgs);
        };
      };
    in
    outputs;
  package = flake.packages.x86_64-linux.default.arguments;
  tests = removeAttrs flake.checks.x86_64-linux [ "package" ];
  nodeConfig = node: (eval [ node ]).config;

  checks = {
    "every option has a type and a description" = everything.problems == [ ] || throw (toString everything.problems);
    "assertions hold" = lib.all (a: a.assertion || throw a.message) config.assertions;
    "nothing is there until it is asked for" =
      nothing.systemd.services == { } && nothing.users.users == { } && nothing.environment.systemPackages == [ ];

    "server: command line" =
      lib.hasPrefix ''${granary}/bin/granary serve "--listen" "[::]:8080" "--data" "/var/lib/granary" "--config" "/nix/store/'' server.ExecStart
      && says server.ExecStart ''"--max-nar-size" "16GiB"'';
    "server: hardened" =
      hardened server == asItShouldBe
      && server.CapabilityBoundingSet == ""
      && server.ProtectSystem == "strict"
      && server.ProtectHome
      && server.PrivateTmp
      && server.PrivateDevices
      && server.PrivateUsers
      && server.UMask == "0077"
      && server.User == "granary"
      && config.users.users.granary.isSystemUser;
    "server: may read the boot id" = server.ProcSubset == null;
    "server: system calls are a list of what is allowed" =
      builtins.head server.SystemCallFilter == "@system-service" && lib.elem "~@privileged" server.SystemCallFilter;
    "server: its folder is its own" = server.StateDirectory == "granary" && server.StateDirectoryMode == "0700";
    "server: secrets come from systemd, and are named beside those of the configuration" =
      server.LoadCredential == [ "hs256-0:${tokenFile}" ]
      &&
        lib.elem "/run/credentials/granary.service/hs256-0"
          config.services.granary.settings.tokens.hs256_secret_files
      && lib.elem "/etc/other" config.services.granary.settings.tokens.hs256_secret_files
      && server.EnvironmentFile == "/run/secrets/granary-environment";
    "server: firewall" =
      config.networking.firewall.allowedTCPPorts == [ 8080 ] && other.networking.firewall.allowedTCPPorts == [ ];
    "server: a port of root's takes one capability" =
      otherServer.CapabilityBoundingSet == [ "CAP_NET_BIND_SERVICE" ]
      && otherServer.AmbientCapabilities == [ "CAP_NET_BIND_SERVICE" ]
      && !otherServer.PrivateUsers;
    "server: another folder is made, and can be written" =
      otherServer.StateDirectory == null
      && otherServer.ReadWritePaths == [ "/srv/granary" ]
      && other.systemd.tmpfiles.rules == [ "d /srv/granary 0700 granary granary -" ];
    "server: what it does not know is refused" =
      withServer { }
      && !withServer { maxNarSize = "much"; }
      && !withServer { listenAddress = "localhost"; }
      && !withServer { dataDir = "/srv/a b"; };

    "mount: command line" =
      mount.ExecStart == lib.concatStringsSep " " [
        ''${granary}/bin/granary mount "https://cache.example.org/100%%" "/mnt/granary/main" "--foreground"''
        ''"--cache-dir" "/var/cache/granary" "--cache-size" "20G"''
        ''"--trusted-public-keys" "main-1:AAAA=" "--trusted-public-keys" "main-2:BBBB="''
        ''"--allow-other" "--passthrough" "--no-profiles" "--by-name" "--timeout" "30"''
        ''"--socket" "/run/granary/main.sock" --token-file %d/token''
      ];
    "mount: what is not set is not said" =
      plain.ExecStart == lib.concatStringsSep " " [
        ''${granary}/bin/granary mount "https://cache.example.org/plain" "/srv/plain" "--foreground"''
        ''"--cache-dir" "/var/cache/granary" "--cache-size" "10G"''
      ]
      && plain.LoadCredential == [ ];
    "mount: the token comes from systemd" = mount.LoadCredential == [ "token:${tokenFile}" ];
    "mount: hardened" =
      lib.all (unit: hardened unit == asItShouldBe && unit.CapabilityBoundingSet == "CAP_SYS_ADMIN") [ mount plain ]
      && lib.elem "mount" mount.SystemCallFilter
      && !lib.elem "@mount" mount.SystemCallFilter
      && mount.DeviceAllow == "/dev/fuse rw";
    "mount: seen by the whole machine" =
      mount.MountFlags == "shared" && lib.all (key: mount.${key} == null) namespacing;
    "mount: a dead one is cleared away, and a change does not take files from programs" =
      lib.hasPrefix "-" mount.ExecStopPost
      && says mount.ExecStopPost "/mnt/granary/main"
      && !services.granary-mount-main.restartIfChanged;
    "mount: starts at boot, or not, or is not there" =
      services.granary-mount-main.wantedBy == [ "multi-user.target" ]
      && services.granary-mount-plain.wantedBy == [ ]
      && !services ? granary-mount-off;
    "mount: fstab has its helper" = config.system.fsPackages == [ config.services.granary.package ];
    "mount: what cannot work is refused" =
      withMount { }
      && !withMount { mountPoint = "/nix/store"; }
      && !withMount { mountPoint = "relative"; }
      && !withMount { cacheSize = "10 G"; }
      && !withMount { publicKeys = [ "no-key" ]; }
      && !withMount { timeout = 0; }
      && !withMount {
        socket = null;
        overlayStore.enable = true;
      }
      && !holds [ { services.granary.mounts."a b".cache = "https://a/b"; } ];
    "secrets in the store are refused" =
      !withMount { tokenFile = "${builtins.storeDir}/x-token"; }
      && !withServer { hs256SecretFiles = [ "${builtins.storeDir}/x-secret" ]; }
      && !withServer { environmentFile = "${builtins.storeDir}/x-environment"; }
      # A path literal would be copied there.
      && !withMount { tokenFile = ./modules.nix; };

    "overlay: over the mount, and gone with it" =
      builtins.length config.systemd.mounts == 1
      && overlay.where == "/var/lib/granary-overlay/main/root/nix/store"
      && overlay.bindsTo == [ "granary-mount-main.service" ]
      && overlay.after == overlay.bindsTo
      && overlay.wantedBy == overlay.bindsTo
      &&
        overlay.options
        == "_netdev,lowerdir=/mnt/granary/main,upperdir=/var/lib/granary-overlay/main/upper,workdir=/var/lib/granary-overlay/main/work";
    "overlay: the store's URL" =
      config.environment.etc."granary/stores/main".text == lib.concatStringsSep "" [
        "local-overlay://?root=/var/lib/granary-overlay/main/root"
        "&lower-store=unix%3A%2F%2F%2Frun%2Fgranary%2Fmain.sock%3Freal%3D%2Fmnt%2Fgranary%2Fmain"
        "&upper-layer=/var/lib/granary-overlay/main/upper"
      ];
    "overlay: Nix may" = lib.elem "local-overlay-store" config.nix.settings.experimental-features;

    "flake: outputs" =
      builtins.attrNames flake
      == [
        "checks"
        "devShells"
        "formatter"
        "nixosModules"
        "overlays"
        "packages"
      ]
      && (flake.overlays.default pkgs pkgs).granary ? outPath
      && lib.all (system: lib.all (set: flake.${set} ? ${system}) [
        "checks"
        "devShells"
        "formatter"
        "packages"
      ]) [ "x86_64-linux" "aarch64-linux" ]
      && builtins.deepSeq (map toString [ flake.devShells.x86_64-linux.default flake.formatter.x86_64-linux ]) true;
    "flake: its modules are the modules" =
      let
        inherit (eval [ flake.nixosModules.default flake.nixosModules.server { services.granary.enable = true; } ]) config;
      in
      config.systemd.services ? granary;
    "package: from the lock file, without tests" =
      builtins.pathExists package.cargoLock.lockFile
      && builtins.deepSeq package.src (!package.doCheck)
      && says package.postInstall "granary completions fish"
      && says package.postInstall "granary man pages"
      && says package.postInstall "bin/mount.granary"
      && package.version == (fromTOML (builtins.readFile ../../Cargo.toml)).workspace.package.version;
    "tests: their machines are configurations" = lib.all (
      test: lib.all (node: lib.all (a: a.assertion) (nodeConfig node).assertions) (lib.attrValues test.nodes)
    ) (lib.attrValues tests);
    "tests: their machines have what the scripts ask for" =
      lib.all (test: (nodeConfig test.nodes.server).systemd.services ? granary) (lib.attrValues tests)
      && (nodeConfig tests.mount.nodes.client).systemd.services ? granary-mount-main
      && (nodeConfig tests.overlay.nodes.client).environment.etc ? "granary/stores/main";
  };

  failed = lib.attrNames (lib.filterAttrs (_name: held: !held) checks);
in
if failed != [ ] then
  throw "does not hold:\n  ${lib.concatStringsSep "\n  " failed}"
else
  {
    held = lib.attrNames checks;
    inherit config;
    # Python, for whoever can check its syntax.
    scripts = lib.mapAttrs (_name: test: test.testScript) tests;
  }
