# `granary mount` as services, one for each cache, and stores of Nix on top of them.
{
  config,
  lib,
  pkgs,
  utils,
  ...
}:
let
  inherit (import ./types.nix { inherit lib; }) plainPath isSecret;
  cfg = config.services.granary;
  mounts = lib.filterAttrs (_name: mount: mount.enable) cfg.mounts;
  overlays = lib.filterAttrs (_name: mount: mount.overlayStore.enable) mounts;
  unitName = name: "granary-mount-${name}";

  upper = mount: "${mount.overlayStore.directory}/upper";
  work = mount: "${mount.overlayStore.directory}/work";
  root = mount: "${mount.overlayStore.directory}/root";

  commandLine =
    mount:
    lib.concatStringsSep " " (
      [
        "${cfg.package}/bin/granary mount"
        (utils.escapeSystemdExecArgs (arguments mount))
      ]
      # Not escaped: %d is the folder that systemd puts the credentials in.
      ++ lib.optional (mount.tokenFile != null) "--token-file %d/token"
    );

  arguments =
    mount:
    [
      mount.cache
      mount.mountPoint
      "--foreground"
      "--cache-dir"
      mount.cacheDir
      "--cache-size"
      mount.cacheSize
    ]
    ++ lib.concatMap (key: [
      "--trusted-public-keys"
      key
    ]) mount.publicKeys
    ++ lib.optional mount.allowOther "--allow-other"
    ++ lib.optional mount.passthrough "--passthrough"
    ++ lib.optional (!mount.profiles) "--no-profiles"
    ++ lib.optional mount.byName "--by-name"
    ++ lib.optionals (mount.timeout != null) [
      "--timeout"
      (toString mount.timeout)
    ]
    ++ lib.optionals (mount.socket != null) [
      "--socket"
      mount.socket
    ];

  service = name: mount: {
    description = "Granary: ${mount.mountPoint}, lazily";
    wantedBy = lib.optional mount.autoStart "multi-user.target";
    wants = [ "network-online.target" ];
    after = [ "network-online.target" ];
    # It is tried again for as long as the server is away.
    startLimitIntervalSec = 0;
    # What runs from the mount would lose its files. A new version waits for the next boot.
    restartIfChanged = mount.restartIfChanged;
    unitConfig.RequiresMountsFor = [
      mount.cacheDir
      (builtins.dirOf mount.mountPoint)
    ];

    serviceConfig = {
      Type = "notify";
      ExecStartPre = "${pkgs.coreutils}/bin/mkdir -p ${mount.mountPoint} ${mount.cacheDir}";
      ExecStart = commandLine mount;
      # A mount whose process was killed stays, dead, and is in the way of the next one.
      ExecStopPost = "-${pkgs.util-linux}/bin/umount --quiet --lazy ${mount.mountPoint}";
      Restart = "on-failure";
      RestartSec = 5;
      # Each file that the kernel reads by itself is kept open.
      LimitNOFILE = 524288;
      LoadCredential = lib.optional (mount.tokenFile != null) "token:${mount.tokenFile}";
      CacheDirectory = lib.mkIf (mount.cacheDir == "/var/cache/granary") "granary";
      CacheDirectoryMode = "0700";
      # All mounts have their sockets here, so the first that stops must leave it to the others.
      RuntimeDirectory = "granary";
      RuntimeDirectoryPreserve = true;
      UMask = "0022";

      # The mount is for the whole machine. Whatever gives a service a mount namespace of its own
      # would keep it inside: ProtectSystem, ProtectHome, ProtectProc, ProtectControlGroups,
      # ProtectKernelTunables, ProtectKernelModules, ProtectKernelLogs, PrivateTmp, PrivateDevices,
      # PrivateMounts, PrivateUsers, DynamicUser and ReadOnlyPaths are out.
      # What follows works on capabilities, cgroups and system calls, and leaves mounts alone.
      MountFlags = "shared";
      # To mount, and to hand files to the kernel for passthrough. Nothing else of root's powers:
      # root without CAP_DAC_OVERRIDE writes to what belongs to root.
      CapabilityBoundingSet = "CAP_SYS_ADMIN";
      DeviceAllow = "/dev/fuse rw";
      DevicePolicy = "closed";
      KeyringMode = "private";
      LockPersonality = true;
      MemoryDenyWriteExecute = true;
      # fusermount3 is setuid; root mounts without it.
      NoNewPrivileges = true;
      RestrictAddressFamilies = [
        "AF_INET"
        "AF_INET6"
        "AF_UNIX"
      ];
      RestrictNamespaces = true;
      RestrictRealtime = true;
      RestrictSUIDSGID = true;
      SystemCallArchitectures = "native";
      SystemCallErrorNumber = "EPERM";
      SystemCallFilter = [
        "@system-service"
        "mount"
        "umount2"
      ];
    };
  };

  overlayMount = name: mount: {
    description = "The Nix store on top of ${mount.mountPoint}";
    what = "overlay";
    where = "${root mount}/nix/store";
    type = "overlay";
    # _netdev: without it systemd would want it before local-fs.target, long before any network.
    options = lib.concatStringsSep "," [
      "_netdev"
      "lowerdir=${mount.mountPoint}"
      "upperdir=${upper mount}"
      "workdir=${work mount}"
    ];
    # An overlay does not survive its lower layer, and comes back with it.
    bindsTo = [ "${unitName name}.service" ];
    after = [ "${unitName name}.service" ];
    wantedBy = [ "${unitName name}.service" ];
  };

  mountOptions =
    { name, config, ... }:
    {
      options = {
        enable = lib.mkOption {
          type = lib.types.bool;
          default = true;
          description = "Whether to have this mount.";
        };

        autoStart = lib.mkOption {
          type = lib.types.bool;
          default = true;
          description = "Whether to mount at boot.";
        };

        restartIfChanged = lib.mkOption {
          type = lib.types.bool;
          default = false;
          description = ''
            Whether to mount anew when the configuration changes. Programs that run from the mount
            lose their files.
          '';
        };

        cache = lib.mkOption {
          type = lib.types.strMatching "[^[:space:]]+";
          example = "https://cache.example.org/main";
          description = ''
            What to mount: the URL of a cache, of a Granary or any other binary cache, or a folder
            of this machine.
          '';
        };

        mountPoint = lib.mkOption {
          type = plainPath;
          default = "/mnt/granary/${name}";
          defaultText = lib.literalExpression ''"/mnt/granary/<name>"'';
          description = "Where to mount it: the folder that then holds the store paths.";
        };

        publicKeys = lib.mkOption {
          type = lib.types.listOf (lib.types.strMatching "[^:[:space:]]+:[A-Za-z0-9+/]+=*");
          default = [ ];
          example = [ "main-1:…" ];
          description = ''
            The public keys to trust, as in `trusted-public-keys`. A path that none of them has
            signed cannot be read.
          '';
        };

        tokenFile = lib.mkOption {
          type = lib.types.nullOr plainPath;
          default = null;
          example = "/run/secrets/granary-token";
          description = ''
            A file with the token, for a private cache. root can read it, and nobody else needs to:
            systemd hands it to the service. It is read when the service starts.
          '';
        };

        cacheDir = lib.mkOption {
          type = plainPath;
          default = "/var/cache/granary";
          description = "The folder for what was fetched. Mounts may share it.";
        };

        cacheSize = lib.mkOption {
          type = lib.types.strMatching "[0-9]+([KMGT](iB)?)?";
          default = "10G";
          description = "How much of it to keep.";
        };

        allowOther = lib.mkOption {
          type = lib.types.bool;
          default = true;
          description = "Whether others than root may read it.";
        };

        passthrough = lib.mkOption {
          type = lib.types.bool;
          default = false;
          description = ''
            Whether the kernel reads fetched files by itself: faster for large files, slower for
            many small ones. Needs Linux 6.9.
          '';
        };

        profiles = lib.mkOption {
          type = lib.types.bool;
          default = true;
          description = ''
            Whether to tell the server what is read first of each path, so that the next mount
            fetches that ahead.
          '';
        };

        byName = lib.mkOption {
          type = lib.types.bool;
          default = false;
          description = "Whether to answer for names alone and list nothing, for huge caches.";
        };

        timeout = lib.mkOption {
          type = lib.types.nullOr lib.types.ints.positive;
          default = null;
          description = "Seconds after which a read that the server does not answer fails.";
        };

        socket = lib.mkOption {
          type = lib.types.nullOr plainPath;
          default = null;
          example = "/run/granary/main.sock";
          description = ''
            Where to answer as a Nix daemon, read only, for
            `nix --store 'unix://SOCKET?real=MOUNTPOINT'`.
          '';
        };

        overlayStore = {
          enable = lib.mkEnableOption "a Nix store that can be written, on top of the mount";

          directory = lib.mkOption {
            type = plainPath;
            default = "/var/lib/granary-overlay/${name}";
            defaultText = lib.literalExpression ''"/var/lib/granary-overlay/<name>"'';
            description = ''
              The folder for what is built on top: the files in `upper`, the store as Nix sees it in
              `root`. A file system that overlayfs can write to, such as ext4, XFS or tmpfs.
            '';
          };

          storeUrl = lib.mkOption {
            type = lib.types.str;
            readOnly = true;
            description = ''
              The URL of the store, for `nix --store` by root. It is in the file
              `/etc/granary/stores/<name>`, too.
            '';
          };
        };
      };

      config = {
        socket = lib.mkIf config.overlayStore.enable (lib.mkDefault "/run/granary/${name}.sock");

        overlayStore.storeUrl =
          let
            lower = "unix://${toString config.socket}?real=${config.mountPoint}";
          in
          "local-overlay://?root=${root config}&lower-store=${lib.escapeURL lower}&upper-layer=${upper config}";
      };
    };
in
{
  imports = [ ./package.nix ];

  options.services.granary.mounts = lib.mkOption {
    type = lib.types.attrsOf (lib.types.submodule mountOptions);
    default = { };
    example = lib.literalExpression ''
      {
        main = {
          cache = "https://cache.example.org/main";
          publicKeys = [ "main-1:…" ];
        };
      }
    '';
    description = "Caches to mount, by name.";
  };

  config = lib.mkIf (mounts != { }) {
    assertions = lib.concatLists (
      lib.mapAttrsToList (name: mount: [
        {
          assertion = builtins.match "[A-Za-z0-9_-]+" name != null;
          message = "services.granary.mounts: ${name} cannot be part of a unit's name";
        }
        {
          assertion = mount.tokenFile == null || isSecret mount.tokenFile;
          message = "services.granary.mounts.${name}: the token lies in the Nix store, where everybody can read it";
        }
        {
          assertion = mount.mountPoint != "/nix/store" && mount.mountPoint != "/";
          message = "services.granary.mounts.${name}: this machine runs from ${mount.mountPoint}; mount it elsewhere";
        }
        {
          assertion = !mount.overlayStore.enable || mount.socket != null;
          message = "services.granary.mounts.${name}: overlayStore asks the mount's socket, which is null";
        }
      ]) mounts
    );

    boot.kernelModules = [ "fuse" ] ++ lib.optional (overlays != { }) "overlay";
    environment.systemPackages = [ cfg.package ];
    # mount.granary, for those who have caches in `fileSystems` besides.
    system.fsPackages = [ cfg.package ];

    systemd.services = lib.mapAttrs' (
      name: mount: lib.nameValuePair (unitName name) (service name mount)
    ) mounts;

    systemd.mounts = lib.mapAttrsToList overlayMount overlays;
    systemd.tmpfiles.rules = lib.concatMap (mount: [
      "d ${mount.overlayStore.directory} 0755 root root -"
      "d ${upper mount} 0755 root root -"
      "d ${work mount} 0700 root root -"
    ]) (lib.attrValues overlays);

    environment.etc = lib.mapAttrs' (
      name: mount: lib.nameValuePair "granary/stores/${name}" { text = mount.overlayStore.storeUrl; }
    ) overlays;
    nix.settings = lib.mkIf (overlays != { }) {
      experimental-features = [
        "nix-command"
        "local-overlay-store"
      ];
    };
  };
}
